"""Model files of Hugging Face repositories: asked about first, then fetched at the very commit that was asked about.

The hub answers a HEAD request on `<hub>/<repo>/resolve/<revision>/<path>` with `X-Repo-Commit`, and for a file in
large-file storage with `X-Linked-Size` and `X-Linked-Etag`, its SHA-256, beside the redirect to a delivery network;
a renamed repository is a redirect inside the hub. Refusals carry a reason in `X-Error-Code`. (As huggingface_hub
reads them: file_download.py `get_hf_file_metadata`, utils/_http.py `hf_raise_for_status`.)
"""

import re
from typing import TYPE_CHECKING

from edgeagent.core.cards import HubSource, ModelFile
from edgeagent.core.errors import DownloadError
from edgeagent.model.fetch import Facts, Job
from edgeagent.model.fetch_http import TRANSIENT, Credential, Patience, TransferInterruptedError, opened, session
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.files import Origin

if TYPE_CHECKING:
    from aiohttp import ClientResponse

HUB_URL = "https://huggingface.co"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFetcher:
    """Asks and fetches at the hub behind `url`; `token` opens repositories with a licence gate, and goes only there."""

    def __init__(self, urls: UrlFetcher, url: str = HUB_URL, token: str = "", patience: Patience | None = None) -> None:
        self._urls = urls
        self._hub = url.rstrip("/")
        self._credential = Credential(self._hub, token.strip())
        self._patience = patience or Patience()

    async def describe(self, file: ModelFile) -> Facts:
        """What the hub says of the file. Raises DownloadError when it refuses, or has another than the card's."""
        assert isinstance(file.source, HubSource)
        source = file.source
        try:
            found = await self._patience.persist(lambda: self._ask(source), lambda: 0)
        except TransferInterruptedError as error:
            what = f"cannot ask {self._hub} about {source.repo} ({error})"
            raise DownloadError(f"{what}; connect and try again, or set models.hub_url to a mirror") from None
        return _agreed(file, source, found)

    async def fetch(self, job: Job) -> None:
        assert isinstance(job.file.source, HubSource)
        commit = job.facts.origin.commit if job.facts.origin else ""
        await self._urls.download(self._address(job.file.source, commit), job, self._credential)

    def _address(self, source: HubSource, commit: str = "") -> str:
        return f"{self._hub}/{source.repo}/resolve/{commit or source.revision}/{source.path}"

    async def _ask(self, source: HubSource) -> Facts:
        url = self._address(source)
        async with (
            session() as client,
            opened(client, "HEAD", url, {}, self._credential, may_leave_origin=False) as response,
        ):
            if response.status in TRANSIENT:
                raise TransferInterruptedError(f"it answers {response.status}")
            if response.status >= 400:
                raise self._refusal(response, source)
            return _facts(response, source)

    def _refusal(self, response: "ClientResponse", source: HubSource) -> DownloadError:
        code = response.headers.get("X-Error-Code", "")
        if response.status in (401, 403):
            has_token = bool(self._credential.token)
            token = "the token that is set may not read it" if has_token else "no token is set"
            what = f"{source.repo} is gated, private or not there ({response.status}), and {token}"
            page = f"{self._hub}/{source.repo}"
            todo = f"accept its licence at {page}, and set HF_TOKEN or models.hub_token to a token of that account"
            return DownloadError(f"{what}; {todo}")
        missing = {"EntryNotFound": f"no file {source.path}", "RevisionNotFound": f"no revision {source.revision}"}
        why = missing.get(code, f"no answer but {response.status} for {source.path} at {source.revision}")
        return DownloadError(f"{source.repo} has {why}; correct its card, or set models.hub_url")


def _facts(response: "ClientResponse", source: HubSource) -> Facts:
    headers = response.headers
    tag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
    commit = headers.get("X-Repo-Commit", "")
    own_size = headers.get("Content-Length", "") if response.status == 200 else ""
    size = headers.get("X-Linked-Size", own_size)
    commit = commit if _COMMIT.fullmatch(commit) else ""
    return Facts(
        bytes=int(size) if size.isdecimal() and int(size) else None,
        sha256=tag if _SHA256.fullmatch(tag) else None,
        origin=Origin(repo=source.repo, revision=source.revision, path=source.path, commit=commit),
    )


def _agreed(file: ModelFile, source: HubSource, found: Facts) -> Facts:
    """The card's facts, filled up with the hub's, if the two are of one file."""
    for name, ours, theirs in (("sha256", file.sha256, found.sha256), ("bytes", file.bytes, found.bytes)):
        if ours is not None and theirs is not None and ours != theirs:
            what = f"{source.repo} has another {source.path} at {source.revision} than its card: {name} {theirs}"
            raise DownloadError(f"{what} instead of {ours}; update edgeagent, or name a commit in the card")
    return Facts(file.bytes or found.bytes, file.sha256 or found.sha256, found.origin)

"""Model files from HTTPS addresses: resumed after every interruption, bounded, never from a changed file."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgeagent.core.cards import ModelFile, UrlSource
from edgeagent.core.errors import DownloadError
from edgeagent.model.fetch import Facts, Job
from edgeagent.model.fetch_http import TRANSIENT, Credential, Patience, TransferInterruptedError, opened, session
from edgeagent.model.files import validator

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

CHUNK_BYTES = 1 * 2**20


@dataclass(frozen=True, slots=True)
class Mark:
    """Beside a partial file: of which file it is the beginning. At least one of the two is known."""

    sha256: str
    tag: str
    """The server's strong ETag or date."""

    @classmethod
    def read(cls, path: Path) -> "Mark | None":
        try:
            sha256, tag = path.read_text(encoding="latin-1").split("\n")
        except (OSError, ValueError):
            return None
        return cls(sha256, tag)

    def write(self, path: Path) -> None:
        if self.sha256 or self.tag:
            path.write_text(f"{self.sha256}\n{self.tag}", encoding="latin-1", errors="replace")
        else:
            path.unlink(missing_ok=True)


class UrlFetcher:
    """Downloads, with patience for servers and connections that come and go."""

    def __init__(self, attempts: int = 5, backoff_s: float = 0.5) -> None:
        self._patience = Patience(attempts, backoff_s)

    async def describe(self, file: ModelFile) -> Facts:
        return Facts(file.bytes, file.sha256)

    async def fetch(self, job: Job) -> None:
        assert isinstance(job.file.source, UrlSource)
        await self.download(job.file.source.url, job)

    async def download(self, url: str, job: Job, credential: Credential | None = None) -> None:
        """Leave the file behind `url` at the job's target. Raises DownloadError, ModelFileError, OSError."""
        async with session() as client:
            try:
                await self._patience.persist(lambda: _transfer(client, url, job, credential), lambda: _size(job.target))
            except TransferInterruptedError as error:
                reason = f"cannot fetch {url} ({error})"
                raise DownloadError(f"{reason}; connect and try again, or {job.advice}") from None


async def _transfer(client: "ClientSession", url: str, job: Job, credential: Credential | None) -> None:
    """One try: from where the target ends, if the server still has that very file, else from the start."""
    mark = Mark.read(validator(job.target))
    start = _size(job.target) if mark and mark.sha256 == (job.facts.sha256 or "") else 0
    if start and start == job.facts.bytes:
        return  # only the last steps of an earlier try are missing
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and mark and mark.tag:
        headers["If-Range"] = mark.tag
    async with opened(client, "GET", url, headers, credential) as response:
        start = _agreed_start(response, start, url, job, mark)
        total = _checked_total(response, start, url, job)
        await _receive(response, start, total, url, job)


def _agreed_start(response: "ClientResponse", start: int, url: str, job: Job, mark: Mark | None) -> int:
    """Where this answer's bytes belong. Raises TransferInterruptedError to try again, DownloadError to give up."""
    is_other = response.status == 206 and (_range_start(response) != start or _is_other(response, mark))
    if response.status == 416 or is_other:
        validator(job.target).unlink(missing_ok=True)
        raise TransferInterruptedError("the server has another file now")
    if response.status in TRANSIENT:
        raise TransferInterruptedError(f"it answers {response.status}")
    if response.status == 206:
        return start
    if response.status != 200:
        raise DownloadError(f"{url} answers {response.status} {response.reason}; check the address in the card")
    Mark(job.facts.sha256 or "", _tag(response)).write(validator(job.target))
    return 0


def _range_start(response: "ClientResponse") -> int:
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdecimal() else -1


def _is_other(response: "ClientResponse", mark: Mark | None) -> bool:
    """Whether a server that ignores If-Range continues another file than ours."""
    tag = _tag(response)
    return bool(mark and mark.tag and tag and tag != mark.tag)


def _tag(response: "ClientResponse") -> str:
    """What identifies this very file at its server; a weak tag does not."""
    tag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _checked_total(response: "ClientResponse", start: int, url: str, job: Job) -> int | None:
    expected = job.facts.bytes
    if response.content_length is None:
        return expected
    total = start + response.content_length
    if total > job.max_bytes or (expected is not None and total != expected):
        raise DownloadError(f"{url} offers {total} bytes, {job.max_bytes} were expected; check the card")
    return total


async def _receive(response: "ClientResponse", start: int, total: int | None, url: str, job: Job) -> None:
    with job.target.open("r+b" if start else "wb") as target:
        target.seek(start)
        target.truncate()
        position = start
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            position += len(chunk)
            if position > job.max_bytes:
                raise DownloadError(f"{url} sends more than {job.max_bytes} bytes; check the card")
            await asyncio.to_thread(_append, target, chunk, position, total, job)
            job.on_progress(position, total)


def _append(target: BinaryIO, chunk: bytes, position: int, total: int | None, job: Job) -> None:
    target.write(chunk)
    target.flush()
    job.inspect(position, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

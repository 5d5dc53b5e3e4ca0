"""Model files from HTTPS addresses: resumed after every interruption, bounded, never from a changed file."""

import asyncio
import ipaddress
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from edgeagent.core.cards import UrlSource
from edgeagent.core.errors import DownloadError
from edgeagent.model.fetch import Job

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

CHUNK_BYTES = 1 * 2**20
CONNECT_S = 15.0
SILENCE_S = 60.0
MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class _InterruptedError(Exception):
    """The transfer broke off; what is there can be continued."""


class UrlFetcher:
    """Downloads with up to `attempts` tries in a row that bring nothing new; waits `backoff_s`, doubled each time."""

    def __init__(self, attempts: int = 5, backoff_s: float = 0.5) -> None:
        self._attempts = attempts
        self._backoff_s = backoff_s

    async def fetch(self, job: Job) -> None:
        import aiohttp

        assert isinstance(job.file.source, UrlSource)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        headers = {"Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session:
            await self._until_whole(session, job.file.source.url, job)

    async def _until_whole(self, session: "ClientSession", url: str, job: Job) -> None:
        failures = 0
        while True:
            before = _size(job.target)
            try:
                await _transfer(session, url, job)
            except _InterruptedError as error:
                failures = 1 if _size(job.target) > before else failures + 1
                if failures >= self._attempts:
                    reason = f"cannot fetch {url} ({error})"
                    raise DownloadError(f"{reason}; connect and try again, or {job.advice}") from None
                await asyncio.sleep(self._backoff_s * 2 ** (failures - 1) * random.uniform(0.5, 1))
            else:
                return


async def _transfer(session: "ClientSession", url: str, job: Job) -> None:
    """One try: from where the target ends, if the server still has that very file, else from the start."""
    validator = job.target.with_name(job.target.name + ".etag")
    start = _size(job.target) if validator.exists() else 0
    if start and start == job.file.bytes:
        return  # only the last step of an earlier try is missing
    headers = {"Range": f"bytes={start}-", "If-Range": validator.read_text()} if start else {}
    async with _opened(session, url, headers) as response:
        if response.status == 416 or (response.status == 206 and _range_start(response) != start):
            validator.unlink(missing_ok=True)
            raise _InterruptedError("the server has another file now")
        if response.status in _TRANSIENT:
            raise _InterruptedError(f"it answers {response.status}")
        if response.status not in (200, 206):
            raise DownloadError(f"{url} answers {response.status} {response.reason}; check the address in the card")
        if response.status == 200:
            start = 0
            _remember(validator, response)
        total = _checked_total(response, start, url, job)
        await _receive(response, start, total, job)
    validator.unlink(missing_ok=True)


@asynccontextmanager
async def _opened(session: "ClientSession", url: str, headers: dict[str, str]) -> "AsyncIterator[ClientResponse]":
    """The response behind up to five redirects, each checked; connection failures become interruptions."""
    import aiohttp

    try:
        for _ in range(MAX_REDIRECTS + 1):
            _check_scheme(url)
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                url = urljoin(url, response.headers.get("Location", ""))
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise _InterruptedError(str(error) or type(error).__name__) from None
    raise DownloadError(f"{url} redirects more than {MAX_REDIRECTS} times; check the address in the card")


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise DownloadError(f"{url} is not an https address; plain http is for loopback only")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _range_start(response: "ClientResponse") -> int:
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdecimal() else -1


def _remember(validator: Path, response: "ClientResponse") -> None:
    """Keep what identifies this very file; without it (or with a weak tag) a later try starts over."""
    tag = response.headers.get("ETag", "")
    tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    if tag:
        validator.write_text(tag)
    else:
        validator.unlink(missing_ok=True)


def _checked_total(response: "ClientResponse", start: int, url: str, job: Job) -> int | None:
    if response.content_length is None:
        return job.file.bytes
    total = start + response.content_length
    if total > job.max_bytes or (job.file.bytes is not None and total != job.file.bytes):
        raise DownloadError(f"{url} offers {total} bytes, the card expects {job.max_bytes}; check the card")
    return total


async def _receive(response: "ClientResponse", start: int, total: int | None, job: Job) -> None:
    with job.target.open("r+b" if start else "wb") as target:
        target.seek(start)
        target.truncate()
        position = start
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            position += len(chunk)
            if position > job.max_bytes:
                raise DownloadError(f"{response.url} sends more than {job.max_bytes} bytes; check the card")
            await asyncio.to_thread(target.write, chunk)
            job.on_progress(position, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

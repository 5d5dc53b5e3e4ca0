"""HTTP as model files need it: only safe addresses, redirects one by one, and patience with what breaks off."""

import asyncio
import ipaddress
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from edgeagent.core.errors import DownloadError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

T = TypeVar("T")

CONNECT_S = 15.0
SILENCE_S = 60.0
MAX_REDIRECTS = 5
TRANSIENT = (408, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}


class TransferInterruptedError(Exception):
    """The transfer broke off; it can be tried again, and what is there can be continued."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A bearer token, and an address of the only origin (scheme, host and port) that it is sent to."""

    url: str
    token: str = field(repr=False)

    def headers(self, url: str) -> dict[str, str]:
        is_ours = self.token and origin(url) == origin(self.url)
        return {"Authorization": f"Bearer {self.token}"} if is_ours else {}


@dataclass(frozen=True, slots=True)
class Patience:
    """How many tries in a row may bring nothing new; waits `backoff_s` after the first, doubled each time."""

    attempts: int = 5
    backoff_s: float = 0.5

    async def persist(self, once: Callable[[], Awaitable[T]], size: Callable[[], int]) -> T:
        """What `once` returns in the end; `size` tells whether a try brought something.

        Raises TransferInterruptedError when patience is over, and whatever else `once` raises.
        """
        failures = 0
        while True:
            before = size()
            try:
                return await once()
            except TransferInterruptedError:
                failures = 1 if size() > before else failures + 1
                if failures >= self.attempts:
                    raise
            await asyncio.sleep(self.backoff_s * 2 ** (failures - 1) * random.uniform(0.5, 1))


@asynccontextmanager
async def session() -> "AsyncIterator[ClientSession]":
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    # Identity: a compressed body could be neither measured nor continued.
    async with aiohttp.ClientSession(
        timeout=timeout, headers={"Accept-Encoding": "identity"}, trust_env=True
    ) as client:
        yield client


@asynccontextmanager
async def opened(
    client: "ClientSession",
    method: str,
    url: str,
    headers: dict[str, str],
    credential: Credential | None = None,
    *,
    may_leave_origin: bool = True,
) -> "AsyncIterator[ClientResponse]":
    """The response behind up to five redirects, each checked; or, of a redirect that may not be followed, itself.

    Raises DownloadError for an unsafe address, TransferInterruptedError for a failed connection, then and inside.
    """
    import aiohttp

    first = url
    try:
        for _ in range(MAX_REDIRECTS + 1):
            check_scheme(url)
            sent = headers | (credential.headers(url) if credential else {})
            async with client.request(method, url, headers=sent, allow_redirects=False) as response:
                there = urljoin(url, response.headers.get("Location", ""))
                is_end = response.status not in _REDIRECTS
                if is_end or not (may_leave_origin or origin(there) == origin(url)):
                    yield response
                    return
                url = there
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise TransferInterruptedError(str(error) or type(error).__name__) from None
    raise DownloadError(f"{first} redirects more than {MAX_REDIRECTS} times; check the address in the card")


def origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def check_scheme(url: str) -> None:
    """Raises DownloadError for what is neither https nor on loopback."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise DownloadError(f"{without_query(url)} is not an https address; plain http is for loopback only")


def without_query(url: str) -> str:
    """The address as it may be shown: the query of a delivery network's address is a signature."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Who may speak to this server, as whom, and how much: every request passes here before a route sees it."""

import asyncio
import hmac
import ipaddress
import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from edgeagent.application.http.errors import (
    ForbiddenError,
    HeadersTooLargeError,
    ParameterError,
    SlowRequestError,
    TooLargeError,
    UnauthorizedError,
    error_response,
    explained,
    from_http,
)
from edgeagent.core.config import HttpConfig
from edgeagent.core.errors import ConfigError, EdgeAgentError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

MAX_BODY_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 16 * 2**10
BODY_TIMEOUT_S = 30.0
USER_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
"""The same names as `[memory] user`."""
PAGE = re.compile(r"/|/ui/[^/]*")
OPEN = re.compile(r"/|/ui/[^/]*|/health|/ready")
"""What needs no token: the page itself (it asks for one), and whether the daemon lives."""

RESPONSE_HEADERS = {
    "Server": "edgeagent",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_config(config: HttpConfig) -> None:
    """Raises ConfigError for settings that would open this machine to others, or to nobody."""
    if not is_loopback(config.host) and not config.tokens:
        raise ConfigError(
            f"http.host '{config.host}' is reachable by others and http.tokens is empty; add a token or use 127.0.0.1"
        )
    for token, user in config.tokens.items():
        if not token.strip() or token != token.strip():
            raise ConfigError(f"http.tokens has an empty or padded token for '{user}'; give it a long random one")
        if not USER_NAME.fullmatch(user):
            raise ConfigError(f"http.tokens names user '{user}'; use letters, digits and _.@- (at most 64)")


class Gate:
    """Checks Host, Origin and token of a request, and says which user it speaks for.

    With tokens configured every address but `OPEN` needs one. Without, whoever reaches loopback is the owner.
    """

    def __init__(self, config: HttpConfig, owner: str) -> None:
        check_config(config)
        self._host = config.host
        self._is_local = is_loopback(config.host)
        self._tokens = config.tokens
        self._owner = owner

    def admit(self, request: web.Request) -> None:
        """Raises HeadersTooLargeError, ForbiddenError, UnauthorizedError."""
        if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEADER_BYTES:
            raise HeadersTooLargeError(f"the headers are over {MAX_HEADER_BYTES} bytes; send less")
        self._check_host(request)
        self._check_origin(request)
        if not OPEN.fullmatch(request.path):
            self._user(request)

    def narrowed(self, request: web.Request, wanted: str | None) -> str:
        """The user a request speaks for: its own, or one below it (`ada` may speak for `ada.phone`)."""
        own = self._user(request)
        if wanted is None or wanted == own:
            return own
        if not USER_NAME.fullmatch(wanted):
            raise ParameterError("a user is letters, digits and _.@- (at most 64); correct it", "edgeagent.user")
        if self._tokens and (not wanted.startswith(f"{own}.") or wanted in self._tokens.values()):
            raise ForbiddenError(f"this token speaks for '{own}', not for '{wanted}'; use that user's token")
        return wanted

    def _check_host(self, request: web.Request) -> None:
        # A page of a foreign site can point its own DNS name at this machine; its Host header still tells.
        hosts = request.headers.getall("Host", [])
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None or not self._is_own_name(name):
            raise ForbiddenError(f"host '{', '.join(hosts)}' is not this server; use its address or localhost")

    def _is_own_name(self, name: str) -> bool:
        if is_loopback(name) or name == self._host:
            return True
        # Off loopback: addresses cannot be rebound, `.local` and bare names are not in the public DNS.
        return not self._is_local and (_is_address(name) or name.endswith(".local") or "." not in name)

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != request.headers["Host"].lower():
            raise ForbiddenError(f"origin '{origin}' is another site; use the page of this server")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if site not in {"same-origin", "none"} and not PAGE.fullmatch(request.path):
            raise ForbiddenError("a page of another site made this request; use the page of this server")

    def _user(self, request: web.Request) -> str:
        if not self._tokens:
            return self._owner
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise UnauthorizedError("a token is needed; send 'Authorization: Bearer <token>'")
        # Every token is compared, in constant time, so that timing tells nothing of any of them.
        secret = given.strip().encode(errors="surrogateescape")  # headers may hold any byte
        users = [user for token, user in self._tokens.items() if hmac.compare_digest(token.encode(), secret)]
        if not users:
            raise UnauthorizedError("this token is not known; use one of [http] tokens")
        return users[0]


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # an open bracket, say
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def middleware(gate: Gate, log: logging.Logger) -> "Middleware":
    """Admit, then answer; whatever goes wrong leaves as one clear error."""

    @web.middleware
    async def guard(request: web.Request, handler: "Handler") -> web.StreamResponse:
        try:
            gate.admit(request)
            return await handler(request)
        except web.HTTPException as error:
            return error_response(from_http(error, request.path), allow=error.headers.get("Allow"))
        except EdgeAgentError as error:
            return error_response(error)
        except ConnectionError:
            raise  # the client went away: nobody is left to tell
        except Exception as failure:  # noqa: BLE001  (the edge: `explained` logs it with its traceback)
            return error_response(explained(failure, log))

    return guard


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler: what every response carries, streams included."""
    response.headers.update(RESPONSE_HEADERS)


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises TooLargeError before reading what is announced too large, SlowRequestError."""
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise TooLargeError(f"the body is over {MAX_BODY_BYTES} bytes; send less")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise SlowRequestError(f"the body did not arrive within {BODY_TIMEOUT_S:g} s; send it faster") from None

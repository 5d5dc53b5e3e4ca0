"""Starts and ends the HTTP server: one listener, drained before it closes."""

import errno
import logging
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http import HttpProcessingError

from edgeagent.application.backend import Backend
from edgeagent.application.http.chat import ChatRoute
from edgeagent.application.http.guards import MAX_BODY_BYTES, Gate, add_headers, middleware
from edgeagent.application.http.memories import Memories
from edgeagent.application.http.page import Page
from edgeagent.application.http.routes import Facts, routes
from edgeagent.core.config import HttpConfig
from edgeagent.core.errors import ConfigError

IDLE_TIMEOUT_S = 60.0
"""How long a connection may take to send a request's head, and may idle between requests."""
HARD_HEADER_BYTES = 64 * 2**10
"""Where the parser itself hangs up; `guards` refuses less than that with a proper answer."""
DRAIN_S = 20.0
"""How long answers under way may take to finish once the server is asked to close."""


class AccessLogger(AbstractAccessLogger):
    """One line a request. Never the query string: it may hold what someone searched in their memories."""

    @property
    def enabled(self) -> bool:
        return self.logger.isEnabledFor(logging.INFO)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        path = request.rel_url.raw_path  # still quoted: a line break in it must not forge a line here
        facts = (request.method, path, response.status, response.body_length, time)
        self.logger.info("http method=%s path=%s status=%d bytes=%d seconds=%.3f", *facts)


class OneLine(logging.Filter):
    """A client that does not speak HTTP is worth a line, not the parser's traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        reason = record.exc_info[1] if record.exc_info else None
        if isinstance(reason, HttpProcessingError):
            record.msg, record.args, record.exc_info = "http refused reason=%r", (reason.message,), None
        return True


class HttpServer:
    """A listening server; made by `start_http`."""

    def __init__(self, runner: web.AppRunner, facts: Facts, port: int) -> None:
        self._runner = runner
        self._facts = facts
        self.port = port
        """The port it listens on, also when the configured one was 0."""

    async def close(self) -> None:
        """Stop accepting, let answers under way finish for `drain_s`, then cancel the rest."""
        self._facts.is_draining = True
        await self._runner.cleanup()


async def start_http(
    config: HttpConfig,
    backend: Backend,
    log: logging.Logger,
    *,
    owner: str = "default",
    drain_s: float = DRAIN_S,
    now: Callable[[], float] = time.time,
) -> HttpServer:
    """Listen. `owner` is the user of requests without a token, where none is needed.

    Raises ConfigError when the address is taken, foreign, or open to others without a token.
    """
    gate = Gate(config, owner)
    facts = Facts(backend, gate)
    app = web.Application(middlewares=[middleware(gate, log)], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(add_headers)
    app.add_routes(routes(ChatRoute(backend, gate, now, log), facts, Memories(backend, gate), Page()))
    runner = web.AppRunner(
        app,
        access_log=log,
        access_log_class=AccessLogger,
        handler_cancellation=True,  # a client that leaves cancels its answer
        shutdown_timeout=drain_s,
        keepalive_timeout=IDLE_TIMEOUT_S,
        max_line_size=HARD_HEADER_BYTES,
        max_field_size=HARD_HEADER_BYTES,
        logger=_protocol_log(log),
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port).start()
    except OSError as error:
        await runner.cleanup()
        raise _cannot_listen(config, error) from None
    return HttpServer(runner, facts, runner.addresses[0][1])


def _cannot_listen(config: HttpConfig, error: OSError) -> ConfigError:
    where = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"cannot listen on {where}: address in use; stop the other program or set http.port")
    reason = (error.strerror or str(error)).lower()
    return ConfigError(f"cannot listen on {where}: {reason}; correct http.host or http.port")


def _protocol_log(log: logging.Logger) -> logging.Logger:
    protocol = log.getChild("protocol")
    if not protocol.filters:
        protocol.addFilter(OneLine())
    return protocol

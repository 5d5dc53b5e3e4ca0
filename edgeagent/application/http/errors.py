"""Errors as HTTP shows them: OpenAI's body, the right status, and whether a retry can help."""

import logging
import math
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from edgeagent.core.errors import BusyError, EdgeAgentError, NotFoundError, RequestError

RETRY_AFTER_S = 1
"""Where nothing better is known; also the least, as the header has whole seconds."""


class ParameterError(RequestError):
    """One parameter of a request is wrong; `param` is its path, as in `messages.0.content`."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class UnauthorizedError(RequestError):
    """No token, or one that is not known."""

    code = "invalid_api_key"
    status = 401


class ForbiddenError(RequestError):
    """The request comes from where, or asks for what, its sender may not."""

    code = "forbidden"
    status = 403


class MethodError(RequestError):
    """The address exists, the method does not."""

    code = "method_not_allowed"
    status = 405


class SlowRequestError(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408
    retryable = True


class TooLargeError(RequestError):
    """The body is over the limit."""

    code = "request_too_large"
    status = 413


class HeadersTooLargeError(RequestError):
    """The headers together are over the limit."""

    code = "headers_too_large"
    status = 431


def from_validation(error: ValidationError) -> RequestError:
    """The first thing wrong with a document, in one line that names the parameter."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not JSON: {first['ctx']['error']}; send one JSON object")
    # Parts like "~list" (tags of `openai`'s unions) and "literal['auto']" are pydantic's, not keys of the document.
    param = ".".join(str(part) for part in first["loc"] if not str(part).startswith("~") and "[" not in str(part))
    text = first["msg"].replace("Tuple", "List")
    if not param:
        return RequestError(f"the body is not valid: {text}; send one JSON object")
    if first["type"] == "extra_forbidden":
        return ParameterError(f"unknown parameter '{param}'; remove it", param)
    return ParameterError(f"parameter '{param}': {text}; correct its value", param)


def from_http(error: web.HTTPException, path: str) -> EdgeAgentError:
    """What the HTTP library refused by itself, as one of this program's errors."""
    if error.status == HTTPStatus.NOT_FOUND:
        return NotFoundError(f"nothing is at {path}; the API is under /v1 and /api/edge")
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return MethodError(f"{path} does not take {error.method}; use {allowed}")
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooLargeError("the body is over the limit; send less")
    return RequestError(f"the request was refused ({error.reason}); correct it")


def explained(failure: Exception, log: logging.Logger) -> EdgeAgentError:
    """The failure itself when it was raised on purpose; otherwise it is logged, and clients learn no more than that."""
    if isinstance(failure, EdgeAgentError):
        return failure
    log.error("http error=internal", exc_info=failure)
    return EdgeAgentError("the request failed inside edgeagent; see its log, and please report it")


def error_body(error: EdgeAgentError) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`."""
    kind = "invalid_request_error" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    param = error.param if isinstance(error, ParameterError) else None
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def error_response(error: EdgeAgentError, *, allow: str | None = None) -> web.Response:
    """The response to a failed request; `allow` lists the methods an address takes."""
    headers = {"x-should-retry": "true" if error.retryable else "false"}  # the official OpenAI clients obey it
    if error.retryable:
        known = error.retry_after_s if isinstance(error, BusyError) else None
        headers["Retry-After"] = str(max(RETRY_AFTER_S, math.ceil(known or 0)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if allow:
        headers["Allow"] = allow
    return web.json_response(error_body(error), status=error.status, headers=headers)

"""Models that somebody else's server runs, behind any OpenAI-compatible API: vLLM, SGLang, llama-server, Ollama.

Such a server gives neither token ids nor draws that could be repeated elsewhere: what it says is text, in pieces.
Shapes are those of https://platform.openai.com/docs/api-reference/chat/create; what comes is read leniently and is
bounded.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeagent.core.errors import (
    BusyError,
    ContextLengthError,
    EngineError,
    EngineLostError,
    RequestError,
    WireError,
)
from edgeagent.core.generation import Sampling

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

CONNECT_S = 5.0
SILENCE_S = 60.0
"""Between two bytes; a long prompt on a slow server is silent for as long as that takes."""
MAX_LINE_BYTES = 256 * 1024
MAX_ANSWER_BYTES = 32 * 2**20
MAX_LIST_BYTES = 2**20
MAX_ERROR_BYTES = 4096
DONE = b"[DONE]"
STATUS_BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """`url` is what its clients take as base, mostly ending in `/v1`."""

    url: str
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the answer: one token with most servers."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """`stopped`: by itself, and not at the limit. Token counts are the server's own; None: it tells none."""

    stopped: bool
    prompt_tokens: int | None = None
    answer_tokens: int | None = None


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True)  # servers add keys of their own


class _Delta(_Lenient):
    content: str | None = None


class _Choice(_Lenient):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Usage(_Lenient):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class _Chunk(_Lenient):
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None


class _Entry(_Lenient):
    id: str = Field(max_length=256)
    max_model_len: int | None = Field(default=None, gt=0)
    """vLLM's: the context."""


class _List(_Lenient):
    data: tuple[_Entry, ...] = Field(max_length=1000)


class Server:
    """One server, over connections that are kept. Errors are those of an engine."""

    def __init__(self, address: ServerAddress, session: "ClientSession") -> None:
        self._address = address
        self._session = session

    async def models(self) -> dict[str, int | None]:
        """What it runs, and how much context each has, where it says so. Raises EngineError."""
        async with self._response("GET", "/models") as response:
            body = await _read(response, MAX_LIST_BYTES)
        try:
            return {entry.id: entry.max_model_len for entry in _List.model_validate_json(body).data}
        except ValidationError as error:
            raise EngineError(f"{self._address.url}/models does not list models ({error.errors()[0]['msg']})") from None

    async def answer(
        self, model: str, turns: Sequence[Mapping[str, str]], sampling: Sampling, max_tokens: int
    ) -> AsyncGenerator[Piece | Ended, None]:
        """The answer as it comes, `Ended` last. Closing the iteration ends it at the server, too.

        Raises EngineError, EngineLostError (it cannot be reached, or falls silent), BusyError, RequestError,
        ContextLengthError, WireError (what came is no stream of chunks).
        """
        body = _body(model, turns, sampling, max_tokens)
        async with self._response("POST", "/chat/completions", body) as response:
            try:
                async for event in _events(response):
                    yield event
            finally:
                response.close()  # an answer that nobody wants any more must not be drawn to its end

    @contextlib.asynccontextmanager
    async def _response(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> AsyncIterator["ClientResponse"]:
        import aiohttp

        headers = {"Authorization": f"Bearer {self._address.key}"} if self._address.key else {}
        url = self._address.url.rstrip("/") + path
        try:
            sent = self._session.request(method, url, json=body, headers=headers, allow_redirects=False)
            async with sent as response:
                if response.status != 200:
                    raise _refusal(response.status, await _read(response, MAX_ERROR_BYTES))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise EngineLostError(f"the server at {self._address.url} does not answer ({why}); start it") from None


@contextlib.asynccontextmanager
async def open_server(address: ServerAddress) -> AsyncIterator[Server]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    # As many connections as there are jobs; turns are given before.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, read_bufsize=MAX_LINE_BYTES // 2, trust_env=False
    ) as session:
        yield Server(address, session)


async def _read(response: "ClientResponse", max_bytes: int) -> bytes:
    """The body, or so much of its beginning; a single `read` gives what has come until then."""
    body = b""
    while len(body) < max_bytes and (part := await response.content.read(max_bytes - len(body))):
        body += part
    return body


async def _events(response: "ClientResponse") -> AsyncGenerator[Piece | Ended, None]:
    stopped, usage, has_ended = False, None, False
    async for data in _data_lines(response):
        if data == DONE:
            has_ended = True
            break
        chunk = _chunk(data)
        usage = chunk.usage or usage
        for choice in chunk.choices[:1]:
            if choice.delta.content:
                yield Piece(choice.delta.content)
            if choice.finish_reason is not None:
                stopped, has_ended = choice.finish_reason == "stop", True
    if not has_ended:
        raise EngineLostError("the server behind this peer broke off its answer; see its log")
    yield Ended(stopped, usage.prompt_tokens if usage else None, usage.completion_tokens if usage else None)


async def _data_lines(response: "ClientResponse") -> AsyncIterator[bytes]:
    """What stands behind `data:` in server-sent events. Raises WireError when a line or all is too long."""
    from aiohttp.http import HttpProcessingError

    num_bytes = 0
    while True:
        try:
            line = await response.content.readline()
        except (ValueError, HttpProcessingError):  # which of them depends on the release
            raise WireError(f"a line of the server behind this peer is over {MAX_LINE_BYTES} bytes") from None
        if not line:
            return
        num_bytes += len(line)
        if num_bytes > MAX_ANSWER_BYTES:
            raise WireError(f"an answer of the server behind this peer is over {MAX_ANSWER_BYTES} bytes")
        if line.startswith(b"data:"):
            yield line.removeprefix(b"data:").strip()


def _chunk(data: bytes) -> _Chunk:
    try:
        return _Chunk.model_validate_json(data)
    except ValidationError as error:
        raise WireError(f"the server behind this peer sent no chunk ({error.errors()[0]['msg']})") from None


def _body(model: str, turns: Sequence[Mapping[str, str]], sampling: Sampling, max_tokens: int) -> dict[str, object]:
    """Only keys that every such server knows; those of sampling only where they say something."""
    body: dict[str, object] = {
        "model": model,
        "messages": [dict(turn) for turn in turns],
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.temperature:
        body |= {"top_p": sampling.top_p, "seed": sampling.seed}
    if sampling.presence_penalty:
        body["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        body["frequency_penalty"] = sampling.frequency_penalty
    return body


def _refusal(status: int, body: bytes) -> EngineError | RequestError | BusyError:
    message, code = _told(body)
    if status in STATUS_BUSY:
        return BusyError(f"the server behind this peer is busy ({message}); try again later")
    if "context_length" in code or "context length" in message or "context window" in message:
        return ContextLengthError(f"the server behind this peer: {message}")
    if 400 <= status < 500 and status not in (401, 403, 404):
        return RequestError(f"the server behind this peer refused the request: {message}")
    return EngineError(f"the server behind this peer answered {status} ({message}); see its log and peer.openai_key")


def _told(body: bytes) -> tuple[str, str]:
    """Message and code of an error in OpenAI's shape, or what there is."""
    try:
        error = json.loads(body).get("error", {})
        return str(error.get("message", ""))[:300], str(error.get("code") or error.get("type") or "")
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace"), ""

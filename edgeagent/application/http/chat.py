"""POST /v1/chat/completions: one question in, one answer out, whole or as it is written."""

import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from aiohttp import web

from edgeagent.application.backend import Backend
from edgeagent.application.http.completion import CallFilter, Chunks, Completion, Head
from edgeagent.application.http.errors import error_body, explained
from edgeagent.application.http.guards import Gate, read_body
from edgeagent.application.http.openai import ChatCall, read_chat
from edgeagent.application.http.sampling import SEEDS
from edgeagent.application.http.stream import Answering, EventStream
from edgeagent.core.errors import ModelNotFoundError
from edgeagent.core.events import Event

KEEP_ALIVE_S = 5.0


class ChatRoute:
    """Serves chat completions from a backend. A client that leaves cancels its answer."""

    def __init__(self, backend: Backend, gate: Gate, now: Callable[[], float], log: logging.Logger) -> None:
        self._backend = backend
        self._gate = gate
        self._now = now
        self._log = log

    async def post(self, request: web.Request) -> web.StreamResponse:
        call = read_chat(await read_body(request), draw_seed=lambda: secrets.randbelow(SEEDS))
        user = self._gate.narrowed(request, call.request.edgeagent.user)
        head = Head(f"chatcmpl-{secrets.token_hex(12)}", int(self._now()), self._model(call.request.model))
        events = self._backend.answer(call.request, user)
        return await (self._stream(request, call, head, events) if call.is_stream else _whole(call, head, events))

    def _model(self, wanted: str | None) -> str:
        if card := self._backend.offered(wanted):
            return card.id
        elsewhere = self._backend.elsewhere()
        if wanted is not None and wanted in elsewhere:
            return wanted
        names = ", ".join([*(card.id for card in self._backend.models()), *elsewhere]) or "none yet"
        raise ModelNotFoundError(f"model '{wanted}' is not here; use one of: {names}")

    async def _stream(
        self, request: web.Request, call: ChatCall, head: Head, events: AsyncGenerator[Event, None]
    ) -> web.StreamResponse:
        stream = EventStream(request)
        chunks = Chunks(head, _filter(call), call.include_usage, call.with_events)
        try:
            await _relay(events, chunks, stream)
        except ConnectionError:
            raise
        except Exception as failure:
            if not stream.is_open:
                raise
            await stream.data(error_body(explained(failure, self._log)))
        await stream.done()
        return stream.response


async def _relay(events: AsyncGenerator[Event, None], chunks: Chunks, stream: EventStream) -> None:
    async with Answering(events) as answer:
        async for event in answer.paced(KEEP_ALIVE_S):
            if event is None:
                await stream.keep_alive()
                continue
            for chunk in chunks.of(event):
                await stream.data(chunk)
    for chunk in chunks.last():
        await stream.data(chunk)


async def _whole(call: ChatCall, head: Head, events: AsyncGenerator[Event, None]) -> web.Response:
    completion = Completion(head, _filter(call))
    async with aclosing(events):
        async for event in events:
            completion.add(event)
    return web.json_response(completion.body())


def _filter(call: ChatCall) -> CallFilter:
    return CallFilter(frozenset(tool.name for tool in call.request.tools), call.one_tool_call)

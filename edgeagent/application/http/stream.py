"""Server-sent events to one client, fed by an answer that runs in a task of its own."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from types import TracebackType
from typing import Any

from aiohttp import web

from edgeagent.core.events import Event

WRITE_TIMEOUT_S = 30.0
"""A client that reads nothing for so long is taken for gone."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would otherwise hold the words back
}


class Answering:
    """Runs an answer while its reader may pause: waiting for the next event never cancels it, leaving does.

    The queue is unbounded because the answer is not: `max_tokens` ends it, and a slow client must not hold the engine.
    """

    def __init__(self, events: AsyncGenerator[Event, None]) -> None:
        self._events = events
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    async def __aenter__(self) -> "Answering":
        self._task = asyncio.create_task(self._run(), name="answer")
        self._task.add_done_callback(lambda _: self._queue.put_nowait(None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                self._queue.put_nowait(event)

    async def paced(self, interval_s: float) -> AsyncIterator[Event | None]:
        """The events in order, and None after each `interval_s` without one. Raises what the answer raises."""
        while True:
            try:
                async with asyncio.timeout(interval_s):
                    event = await self._queue.get()
            except TimeoutError:
                yield None
                continue
            if event is None:
                self._task.result()
                return
            yield event


class EventStream:
    """A `text/event-stream` response that opens at its first line, so that an early error keeps its HTTP status."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=HEADERS)

    @property
    def is_open(self) -> bool:
        return self.response.prepared

    async def data(self, document: dict[str, Any]) -> None:
        await self._write(f"data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n")

    async def done(self) -> None:
        await self._write("data: [DONE]\n\n")
        await self.response.write_eof()

    async def keep_alive(self) -> None:
        """A comment, so that clients and proxies do not take a long prefill for a dead server."""
        await self._write(": waiting\n\n")

    async def _write(self, line: str) -> None:
        if not self.is_open:
            await self.response.prepare(self._request)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self.response.write(line.encode(errors="replace"))
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client stopped reading") from None

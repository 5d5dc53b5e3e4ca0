"""Calls under way in a worker: what came for them and was not fetched yet."""

import asyncio
import os
from dataclasses import dataclass, field

from edgeagent.core import errors
from edgeagent.core.errors import EdgeAgentError, EngineError
from edgeagent.execution.channel import FILES, Message, Received


@dataclass(slots=True)
class Call:
    """`stall_s` None: it tells of each step, so the longest one says how long to wait for the next."""

    stall_s: float | None
    _queue: asyncio.Queue[Received | EdgeAgentError] = field(default_factory=asyncio.Queue)

    def put(self, message: Message, bulk: bytes) -> None:
        if "error" not in message:
            self._queue.put_nowait((message, bulk))
            return
        kind = getattr(errors, str(message["error"]["type"]), EngineError)
        self._queue.put_nowait(kind(str(message["error"]["message"])))

    def fail(self, error: EdgeAgentError) -> None:
        self._queue.put_nowait(error)

    async def next(self) -> "Received | EdgeAgentError":
        """The next message, or the error that ends the call."""
        return await self._queue.get()

    def close(self) -> None:
        """Drop what nobody fetched."""
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if not isinstance(item, EdgeAgentError):
                close_files(item[0])


def close_files(message: Message) -> None:
    """Of a message that nobody reads."""
    for file in message.get(FILES, ()):
        os.close(file)

"""The daemon's side of a worker: spawn, call, stream, cancel, notice death or silence, end."""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator

from edgeagent.core import errors
from edgeagent.core.errors import EngineError, EngineLostError
from edgeagent.execution.channel import (
    FILES,
    MAX_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Buffers,
    ChannelClosedError,
    Message,
    pack,
    unpack,
)

STALL_S = 60.0
"""A worker that owes an answer and says nothing for so long is taken for hung, and killed."""

Received = tuple[Message, bytes]


class Worker:
    """One child process and the calls under way in it.

    Every pending call ends with EngineLostError when the process dies or falls silent.
    """

    def __init__(self, engine: str, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.engine = engine
        self._process = process
        self._socket = sock
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Queue[Received | EdgeAgentFailure]] = {}
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._loop.add_reader(sock, self._on_readable)

    @classmethod
    async def spawn(cls, engine: str, *, memory_limit_bytes: int = 0, is_quiet: bool = False) -> "Worker":
        """Start a worker for `engine` (a key of `worker.ENGINES`); a quiet one dies without a word on stderr."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "edgeagent.execution.worker", engine, str(theirs.fileno())]
        process = subprocess.Popen(  # noqa: ASYNC220  (fork and exec take a millisecond; the pipe is ours)
            [*command, str(memory_limit_bytes)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if is_quiet else None,
        )
        theirs.close()
        return cls(engine, process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def is_alive(self) -> bool:
        return self._socket.fileno() >= 0 and self._process.poll() is None

    async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
        """The one reply to `op`. Raises the worker's error, or EngineLostError."""
        async with contextlib.aclosing(self.stream(op, bulk, stall_s=stall_s, **params)) as messages:
            return [message async for message in messages][-1]

    async def stream(
        self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object
    ) -> AsyncGenerator[Received, None]:
        """Every event of `op`, then its reply. Leaving the iteration early cancels the call in the worker.

        Files that are given stay the caller's; those that come back, under an event's `files`, are the receiver's.
        """
        request_id = next(self._ids)
        queue: asyncio.Queue[Received | EdgeAgentFailure] = asyncio.Queue()
        self._pending[request_id] = queue
        is_done = False
        try:
            await self._send({"id": request_id, "op": op, "params": params}, bulk)
            while not is_done:
                item = await self._next(queue, op, stall_s)
                if isinstance(item, EdgeAgentFailure):
                    is_done = True
                    raise item.error
                message, data = item
                is_done = "reply" in message
                facts = message["reply"] if is_done else message["event"]
                yield ({**facts, FILES: message[FILES]} if FILES in message else facts), data
        finally:
            _close_files(self._pending.pop(request_id))
            if not is_done and self.is_alive:
                await self._send({"id": 0, "op": "cancel", "params": {"request": request_id}}, ())

    async def _next(
        self, queue: "asyncio.Queue[Received | EdgeAgentFailure]", op: str, stall_s: float
    ) -> "Received | EdgeAgentFailure":
        try:
            async with asyncio.timeout(stall_s):
                return await queue.get()
        except TimeoutError:
            self._lose(f"said nothing for {stall_s:g} s during '{op}'")
            return queue.get_nowait()

    async def _send(self, message: Message, bulk: Buffers) -> None:
        packet, descriptors = pack(message, bulk)
        try:
            async with self._sending:
                await self._send_packet(packet, descriptors)
        except OSError:
            self._lose("closed its channel")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _send_packet(self, packet: bytes, descriptors: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [packet], descriptors)
            except BlockingIOError:
                await self._wait_writable()
            else:
                return

    async def _wait_writable(self) -> None:
        writable = asyncio.Event()
        self._loop.add_writer(self._socket, writable.set)
        try:
            await writable.wait()
        finally:
            self._loop.remove_writer(self._socket)

    def _on_readable(self) -> None:
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, MAX_PACKET_BYTES + 1, MAX_DESCRIPTORS)
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            self._lose("died")
            return
        try:
            message, bulk = unpack(packet, descriptors)
        except (ChannelClosedError, ValueError) as error:
            self._lose(f"sent a broken message ({error})")
            return
        self._deliver(message, bulk)

    def _deliver(self, message: Message, bulk: bytes) -> None:
        queue = self._pending.get(message["id"])
        if queue is None:  # an answer to a call that was cancelled meanwhile
            for file in message.get(FILES, ()):
                os.close(file)
            return
        queue.put_nowait(EdgeAgentFailure.from_worker(message) if "error" in message else (message, bulk))

    def _lose(self, reason: str) -> None:
        """The process is dead or useless: make sure of it, and fail what is pending."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        error = EngineLostError(f"{self.engine} worker {reason} (exit {status}); the request can be repeated")
        for queue in self._pending.values():
            queue.put_nowait(EdgeAgentFailure(error))

    async def close(self) -> None:
        """End the worker. Its memory is free when this returns."""
        self._lose("was unloaded")


def _close_files(queue: "asyncio.Queue[Received | EdgeAgentFailure]") -> None:
    """Of messages that nobody read."""
    while not queue.empty():
        item = queue.get_nowait()
        for file in () if isinstance(item, EdgeAgentFailure) else item[0].get(FILES, ()):
            os.close(file)


class EdgeAgentFailure:
    """An error on its way to the caller that waits for it."""

    def __init__(self, error: errors.EdgeAgentError) -> None:
        self.error = error

    @classmethod
    def from_worker(cls, message: Message) -> "EdgeAgentFailure":
        kind = getattr(errors, str(message["error"]["type"]), EngineError)
        return cls(kind(str(message["error"]["message"])))

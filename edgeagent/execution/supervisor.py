"""The daemon's side of a worker: spawn, call, stream, cancel, notice death or a hang, end."""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Self, TypeVar

from edgeagent.core.errors import EdgeAgentError, EngineLostError, OutOfMemoryError
from edgeagent.execution.calls import Call, close_files
from edgeagent.execution.channel import (
    FILES,
    MAX_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Buffers,
    ChannelClosedError,
    Message,
    Received,
    pack,
    parted,
    unpack,
)
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.last_words import LastWords
from edgeagent.execution.loss import Cause, cause_of
from edgeagent.execution.oom import count_oom_kills
from edgeagent.execution.vitals import Hang, Patience
from edgeagent.execution.watch import Watch

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

STALL_S = 60.0
"""A worker that owes one reply and works for so long without a word is taken for hung."""
REAP_S = 0.2
"""How long the daemon may stand still for a killed process to be gone: its memory has to be taken apart first."""
GONE_S = 10.0


class Worker:
    """One child process and the calls under way in it.

    Every pending call ends with EngineLostError when the process dies, is stopped or hangs. While none is pending
    nobody looks at the process, and nothing wakes up.
    """

    def __init__(
        self,
        engine: str,
        process: subprocess.Popen[bytes],
        sock: socket.socket,
        last_words: LastWords,
        patience: Patience | None = None,
    ) -> None:
        self.engine = engine
        self.cause: Cause | None = None
        """Why it is gone; None while it is not."""
        self._process = process
        self._last_words = last_words
        self.watch = Watch(process.pid, patience or Patience(), self._lose_hung)
        self._socket = sock
        self._ids = itertools.count(1)
        self._pending: dict[int, Call] = {}
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._writable = asyncio.Event()
        self._num_oom_kills = count_oom_kills()
        self._loop.add_reader(sock, self._on_readable)

    @classmethod
    async def spawn(
        cls,
        engine: str,
        *,
        limits: WorkerLimits = WorkerLimits(),  # noqa: B008  (frozen)
        is_quiet: bool = False,
        patience: Patience | None = None,
    ) -> Self:
        """Start a worker for `engine` (a key of `worker.ENGINES`); a quiet one dies without a word on stderr."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "edgeagent.execution.worker", engine, str(theirs.fileno())]
        last_words = LastWords(is_quiet=is_quiet)
        process = subprocess.Popen(  # noqa: ASYNC220  (fork and exec take a millisecond; the pipe is ours)
            [*command, limits.encode()],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=last_words.writing_end,
        )
        theirs.close()
        os.close(last_words.writing_end)
        return cls(engine, process, ours, last_words, patience)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    @property
    def is_alive(self) -> bool:
        return self.cause is None and self._process.poll() is None

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
        """The one reply to `op`. Raises the worker's error, or EngineLostError."""
        async with contextlib.aclosing(self.stream(op, bulk, stall_s=stall_s, **params)) as messages:
            return [message async for message in messages][-1]

    async def stream(
        self, op: str, bulk: Buffers = (), *, stall_s: float | None = None, **params: object
    ) -> AsyncGenerator[Received, None]:
        """Every event of `op`, then its reply. Leaving the iteration early cancels the call in the worker.

        `stall_s` is for operations that do not tell of each step: how long one may be silent while the worker works.
        Files that are given stay the caller's; those that come back, under an event's `files`, are the receiver's.
        """
        if self.cause:
            raise EngineLostError(f"{self.engine} worker is gone; the request can be repeated")
        request_id, call = next(self._ids), Call(stall_s)
        self._add(request_id, call)
        is_done = False
        try:
            await self._send({"id": request_id, "op": op, "params": params}, bulk)
            while not is_done:
                item = await call.next()
                if isinstance(item, EdgeAgentError):
                    is_done = True
                    raise item
                message, data = item
                is_done = "reply" in message
                facts = message["reply"] if is_done else message["event"]
                yield ({**facts, FILES: message[FILES]} if FILES in message else facts), data
        finally:
            self._remove(request_id, call)
            if not is_done and self.is_alive:
                await self._send({"id": 0, "op": "cancel", "params": {"request": request_id}}, ())

    async def close(self) -> None:
        """End the worker. Its memory is free when this returns (unless the kernel cannot end it)."""
        self._lose("was unloaded", Cause.CLOSED)
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, GONE_S)

    def _add(self, request_id: int, call: Call) -> None:
        self._pending[request_id] = call
        self.watch.start(call.stall_s)

    def _remove(self, request_id: int, call: Call) -> None:
        self._pending.pop(request_id)
        call.close()
        if not self._pending:
            self.watch.stop()

    def _lose_hung(self, hang: Hang) -> None:
        log.warning("worker hangs: it %s", hang.reason, extra={"engine": self.engine, "pid": self.pid})
        self._lose(hang.reason, Cause.STOPPED if hang.is_stopped else Cause.STUCK)

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
        """Until there is room, or the worker is gone: then the next try raises OSError."""
        self._writable.clear()
        self._loop.add_writer(self._socket, self._writable.set)
        try:
            await self._writable.wait()
        finally:
            if self._socket.fileno() >= 0:
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
            received = parted(*unpack(packet, descriptors))
        except (ChannelClosedError, ValueError) as error:
            self._lose(f"sent a broken message ({error})", Cause.CRASHED)
            return
        self.watch.heard((call.stall_s for call in self._pending.values()), is_step="event" in received[-1][0])
        for message, bulk in received:
            self._deliver(message, bulk)

    def _deliver(self, message: Message, bulk: bytes) -> None:
        if missing := message.get("missing_limits"):
            log.warning("worker runs without limits: %s", "; ".join(missing), extra={"pid": self.pid})
            return
        call = self._pending.get(message["id"])
        if call is None:  # an answer to a call that was cancelled meanwhile
            close_files(message)
            return
        call.put(message, bulk)

    def _lose(self, reason: str, cause: Cause | None = None) -> None:
        """The process is dead or useless: make sure of it, and fail what is pending. No `cause`: it ended by itself."""
        if self.cause is not None:
            return
        self.watch.stop()
        self._close_socket()
        status = self._end_process(may_end_itself=cause is None)
        self._last_words.close()
        self.cause = cause or self._cause(status)
        error = self._error(reason, status)
        for call in self._pending.values():
            call.fail(error)

    def _cause(self, status: int) -> Cause:
        num_kills = count_oom_kills() - self._num_oom_kills
        return cause_of(status, num_oom_kills=num_kills, told_of_memory=self._last_words.are_of_memory)

    def _error(self, reason: str, status: int) -> EdgeAgentError:
        if self.cause is Cause.NO_MEMORY:
            return OutOfMemoryError(
                f"the {self.engine} worker found no memory (exit {status}); use a smaller model or a shorter context"
            )
        return EngineLostError(f"{self.engine} worker {reason} (exit {status}); the request can be repeated")

    def _close_socket(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._writable.set()

    def _end_process(self, *, may_end_itself: bool) -> int:
        """Its exit status. A process whose channel is closed is about to end, and its own status says why."""
        for is_last_try in (False, True):
            if is_last_try or not may_end_itself:
                self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(REAP_S)
        return -9


async def repeated(call: Callable[[], Awaitable[_Result]]) -> _Result:
    """What leaves no trace in a worker: once more when the worker is lost on the way. `call` finds the next one."""
    try:
        return await call()
    except EngineLostError:
        return await call()

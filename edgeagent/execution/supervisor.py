"""The daemon's side of a worker: spawn, call, stream, cancel, notice death or a hang, drain, end."""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Self

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
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.loss import Cause, cause_of
from edgeagent.execution.oom import count_oom_kills
from edgeagent.execution.vitals import Hang, Patience, Silence, read_vitals, thread_states

log = logging.getLogger(__name__)

STALL_S = 60.0
"""A worker that owes one reply and works for so long without a word is taken for hung."""
REAP_S = 0.2
"""How long the daemon may stand still for a killed process to be gone: its memory has to be taken apart first."""
GONE_S = 10.0

Received = tuple[Message, bytes]


@dataclass(slots=True)
class _Call:
    """`stall_s` None: it tells of each step, so the longest one says how long to wait for the next."""

    stall_s: float | None
    queue: "asyncio.Queue[Received | EdgeAgentFailure]" = field(default_factory=asyncio.Queue)

    def close_files(self) -> None:
        """Of messages that nobody read."""
        while not self.queue.empty():
            item = self.queue.get_nowait()
            for file in () if isinstance(item, EdgeAgentFailure) else item[0].get(FILES, ()):
                os.close(file)


class Worker:
    """One child process and the calls under way in it.

    Every pending call ends with EngineLostError when the process dies, is stopped or hangs. While none is pending
    nobody looks at the process, and nothing wakes up.
    """

    def __init__(self, engine: str, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.engine = engine
        self.patience = Patience()
        self.duty = 1.0
        """Share of the time that the worker was told to work: it is silent while it rests."""
        self.expected_step_s = 0.0
        """How long a step was predicted to take; the longest one seen counts if it is longer."""
        self.cause: Cause | None = None
        """Why it is gone; None while it is not."""
        self._process = process
        self._socket = sock
        self._ids = itertools.count(1)
        self._pending: dict[int, _Call] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._writable = asyncio.Event()
        self._is_draining = False
        self._silence = Silence(self.patience)
        self._bound_s = 0.0
        self._tick: asyncio.TimerHandle | None = None
        self._num_oom_kills = count_oom_kills()
        self._loop.add_reader(sock, self._on_readable)

    @classmethod
    async def spawn(
        cls,
        engine: str,
        *,
        limits: WorkerLimits | None = None,
        memory_limit_bytes: int = 0,
        is_quiet: bool = False,
        patience: Patience | None = None,
    ) -> Self:
        """Start a worker for `engine` (a key of `worker.ENGINES`); a quiet one dies without a word on stderr.

        `memory_limit_bytes` bounds its address space when there are no `limits`.
        """
        limits = limits or WorkerLimits(address_bytes=memory_limit_bytes)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "edgeagent.execution.worker", engine, str(theirs.fileno())]
        process = subprocess.Popen(  # noqa: ASYNC220  (fork and exec take a millisecond; the pipe is ours)
            [*command, limits.encode()],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if is_quiet else None,
        )
        theirs.close()
        worker = cls(engine, process, ours)
        worker.patience = patience or worker.patience
        worker._silence = Silence(worker.patience)
        return worker

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

        Files that are given stay the caller's; those that come back, under an event's `files`, are the receiver's.
        `stall_s` is for operations that do not tell of each step: how long one may be silent while the worker works.
        """
        if self._is_draining or self.cause:
            raise EngineLostError(f"{self.engine} worker is going away; the request can be repeated")
        request_id, call = next(self._ids), _Call(stall_s)
        self._add(request_id, call)
        is_done = False
        try:
            await self._send({"id": request_id, "op": op, "params": params}, bulk)
            while not is_done:
                item = await call.queue.get()
                if isinstance(item, EdgeAgentFailure):
                    is_done = True
                    raise item.error
                message, data = item
                is_done = "reply" in message
                facts = message["reply"] if is_done else message["event"]
                yield ({**facts, FILES: message[FILES]} if FILES in message else facts), data
        finally:
            self._remove(request_id)
            if not is_done and self.is_alive:
                await self._send({"id": 0, "op": "cancel", "params": {"request": request_id}}, ())

    async def drain(self, bound_s: float) -> None:
        """No new calls; those under way have `bound_s` to end. The process is gone when this returns."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """End the worker. Its memory is free when this returns (unless the kernel cannot end it)."""
        self._lose("was unloaded", Cause.CLOSED)
        if self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, GONE_S)

    def _add(self, request_id: int, call: _Call) -> None:
        self._pending[request_id] = call
        self._idle.clear()
        if self._tick is None:
            self._heard(None)
            self._tick = self._loop.call_later(self.patience.tick_s, self._look)

    def _remove(self, request_id: int) -> None:
        if call := self._pending.pop(request_id, None):
            call.close_files()
        if not self._pending:
            self._idle.set()
            self._stop_looking()

    def _stop_looking(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def _heard(self, message: Message | None) -> None:
        """A sign of life: from now on the worker may be silent as long as the most patient call allows."""
        now = time.monotonic()
        if message is not None and "event" in message:
            self.expected_step_s = max(self.expected_step_s, self._silence.step_s(now) * self.duty)
        self._silence.heard(now)
        step_s = self.patience.bound_s(self.expected_step_s) / self.duty
        self._bound_s = max(step_s if call.stall_s is None else call.stall_s for call in self._pending.values())

    def _look(self) -> None:
        self._tick = self._loop.call_later(self.patience.tick_s, self._look)
        vitals = read_vitals(self.pid)
        if vitals is None:
            return
        if hang := self._silence.look(time.monotonic(), vitals, thread_states(self.pid), self._bound_s):
            self._lose_hung(hang)

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
            message, bulk = unpack(packet, descriptors)
        except (ChannelClosedError, ValueError) as error:
            self._lose(f"sent a broken message ({error})", Cause.CRASHED)
            return
        self._deliver(message, bulk)

    def _deliver(self, message: Message, bulk: bytes) -> None:
        if missing := message.get("missing_limits"):
            log.warning("worker runs without limits: %s", "; ".join(missing), extra={"pid": self.pid})
            return
        if self._pending:
            self._heard(message)
        call = self._pending.get(message["id"])
        if call is None:  # an answer to a call that was cancelled meanwhile
            for file in message.get(FILES, ()):
                os.close(file)
            return
        call.queue.put_nowait(EdgeAgentFailure.from_worker(message) if "error" in message else (message, bulk))

    def _lose(self, reason: str, cause: Cause | None = None) -> None:
        """The process is dead or useless: make sure of it, and fail what is pending. No `cause`: it ended by itself."""
        if self.cause is not None:
            return
        self._stop_looking()
        self._close_socket()
        status = self._end_process(may_end_itself=cause is None)
        self.cause = cause or cause_of(status, num_oom_kills=count_oom_kills() - self._num_oom_kills)
        error = EngineLostError(f"{self.engine} worker {reason} (exit {status}); the request can be repeated")
        for call in self._pending.values():
            call.queue.put_nowait(EdgeAgentFailure(error))

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


class EdgeAgentFailure:
    """An error on its way to the caller that waits for it."""

    def __init__(self, error: errors.EdgeAgentError) -> None:
        self.error = error

    @classmethod
    def from_worker(cls, message: Message) -> "EdgeAgentFailure":
        kind = getattr(errors, str(message["error"]["type"]), EngineError)
        return cls(kind(str(message["error"]["message"])))

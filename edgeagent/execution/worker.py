"""The worker process: one engine, one channel, one loop. Started by the supervisor, ends with its channel."""

import ctypes
import importlib
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Protocol

from edgeagent.core.errors import EdgeAgentError, OutOfMemoryError
from edgeagent.execution import faults
from edgeagent.execution.channel import FILES, Buffers, Channel, ChannelClosedError, Files, Message
from edgeagent.execution.confine import WorkerLimits, confine

ENGINES = {
    "llama": "edgeagent.execution.llama.engine",
    "onnx": "edgeagent.execution.onnx.engine",
    "litert": "edgeagent.execution.litert.engine",
}
PR_SET_PDEATHSIG = 1


class Request:
    """One call from the daemon; answered by any number of `event`s, then exactly one `reply` or `fail`."""

    def __init__(self, channel: Channel, message: Message, bulk: bytes) -> None:
        self._channel = channel
        self.id: int = message["id"]
        self.op: str = message["op"]
        self.params: Message = message.get("params", {})
        self.bulk = bulk
        self._files: list[int] = message.get(FILES, [])

    def read_files(self) -> list[mmap.mmap]:
        """The files that came with the request, mapped; empty ones cannot be. Each call can be made once."""
        try:
            return [mmap.mmap(file, 0, access=mmap.ACCESS_READ) for file in self._files]
        finally:
            self.close_files()

    def close_files(self) -> None:
        """Those that nobody read."""
        while self._files:
            os.close(self._files.pop())

    def event(self, bulk: Buffers = (), **facts: object) -> None:
        self._send({"id": self.id, "event": facts}, bulk)

    def token(self, piece: bytes, **facts: object) -> None:
        """An event that may wait a little for the next ones."""
        self._channel.hold({"id": self.id, "event": facts}, piece)

    def reply(self, bulk: Buffers = (), **facts: object) -> None:
        self._send({"id": self.id, "reply": facts}, bulk)

    def _send(self, message: Message, bulk: Buffers) -> None:
        """Files are handed over: they are closed here."""
        try:
            self._channel.send(message, bulk)
        finally:
            for file in bulk.descriptors if isinstance(bulk, Files) else ():
                os.close(file)

    def fail(self, error: EdgeAgentError) -> None:
        self._channel.send({"id": self.id, "error": {"type": type(error).__name__, "message": str(error)}})


class Engine(Protocol):
    """What a worker runs. Synchronous: `handle` answers or queues a request, `step` does one unit of queued work."""

    def handle(self, request: Request) -> None: ...

    def cancel(self, request_id: int) -> None: ...

    def step(self) -> None: ...

    @property
    def is_busy(self) -> bool: ...


def serve(channel: Channel, engine: Engine) -> None:
    """Alternate between messages and steps until the daemon goes away."""
    while True:
        while message := channel.receive(block=not engine.is_busy):
            _dispatch(channel, engine, *message)
        engine.step()
        channel.flush_when_due(time.monotonic())


def _dispatch(channel: Channel, engine: Engine, message: Message, bulk: bytes) -> None:
    if message["op"] == "fault" and faults.are_allowed(os.environ):
        faults.commit(message["params"])
    if message["op"] == "cancel":
        engine.cancel(message["params"]["request"])
        return
    request = Request(channel, message, bulk)
    try:
        engine.handle(request)
    except EdgeAgentError as error:
        request.fail(error)
    except MemoryError:
        request.fail(OutOfMemoryError(f"the worker has no memory left for '{request.op}'; use a smaller model"))
    finally:
        request.close_files()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(arguments: list[str]) -> None:
    """`worker ENGINE FD LIMITS` (what `WorkerLimits.encode` gives)."""
    name, descriptor, limits = arguments[0], int(arguments[1]), WorkerLimits.decode(arguments[2])
    _die_with_parent()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads and the engine's would spin against each other
    os.environ["GGML_NO_BACKTRACE"] = "1"  # or an abort of llama.cpp first runs a debugger on this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the daemon, which then closes the channel
    missing = confine(limits)
    os.dup(descriptor)  # so that the daemon sees the channel's end when this process has ended, with its status
    channel = Channel(socket.socket(fileno=descriptor))
    if missing:
        channel.send({"id": 0, "missing_limits": missing})
    create: Callable[[], Engine] = importlib.import_module(ENGINES[name]).create
    try:
        serve(channel, create())
    except ChannelClosedError:
        return


if __name__ == "__main__":
    main(sys.argv[1:])

"""A TCP proxy on 127.0.0.1 that is a bad link: rate, delay, jitter, and faults. For tests and benches; needs no root.

    chaos_proxy.py 127.0.0.1:1883 --listen 2883 --down 5 --up 1 --rtt-ms 50 --faults 20 --within-s 60 --seed 7
    chaos_proxy.py --check --down 5 --up 5 --rtt-ms 50

The first stands for a broker and plays a schedule of faults; the second measures the proxy itself against an echo.
Rates count TCP payload. A rate is one of the whole link: connections share it, chunk by chunk in turn. The kernel's own
token bucket (`tbf` between two network namespaces) counts headers, 66 bytes of each 1,514: set to 5 and 50 Mbit/s it
carried 4.83 and 47.82 of payload, this proxy 5.00 and 50.00 (2026-11-30, 2 cores, busy). As `tbf` needs root and knows
no delay, every bench uses the proxy.
"""

import argparse
import asyncio
import contextlib
import enum
import json
import random
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from tools.chaos_link import PERFECT, Lane, Shape, Travelling, Way

SOCKET_BUFFER_BYTES = 64 * 1024
"""Of each socket here (the kernel doubles it): what is sent too fast shows at its sender, not in a buffer."""
MAX_SEGMENT_BYTES = 1448
"""As on Ethernet. With the 64 KiB of a loopback device a sender's kernel buffers megabytes from the start."""
BACKLOG = 64


class FaultKind(enum.Enum):
    FREEZE = "freeze"
    """Nothing passes for some time; connections stay."""
    HALF_OPEN = "half_open"
    """The same in one direction only."""
    RESET = "reset"
    """All connections are reset, and new ones for some time."""
    CORRUPT = "corrupt"
    """A bit of what comes next is turned over."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens `at_s` seconds after the start of a schedule, for `seconds`."""

    at_s: float
    kind: FaultKind
    seconds: float = 0.0
    way: Way = Way.DOWN


def random_faults(
    seed: int, num: int, within_s: float, kinds: Sequence[FaultKind] = tuple(FaultKind), max_s: float = 2.0
) -> list[Fault]:
    """A schedule; the same for the same seed."""
    draw = random.Random(seed)
    faults = [
        Fault(draw.uniform(0, within_s), draw.choice(kinds), draw.uniform(0, max_s), draw.choice(tuple(Way)))
        for _ in range(num)
    ]
    return sorted(faults, key=lambda fault: fault.at_s)


@dataclass(eq=False, slots=True)
class _Connection:
    """The two sockets, near (who connected to us) and far."""

    near: socket.socket
    far: socket.socket
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class ChaosProxy:
    """`async with ChaosProxy("127.0.0.1", 1883, Shape(down_mbit_s=5)) as proxy:` listens on `proxy.port`."""

    host: str
    upstream_port: int
    shape: Shape = PERFECT
    port: int = 0
    seed: int = 0
    num_connections: int = 0
    """Ever accepted."""
    _lanes: dict[Way, Lane] = field(default_factory=dict)
    _connections: set[_Connection] = field(default_factory=set)
    _listener: socket.socket | None = None
    _accepting: asyncio.Task[None] | None = None
    _is_refusing: bool = False
    _timers: dict[object, asyncio.TimerHandle] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        shape, half_s = self.shape, self.shape.rtt_s / 2
        self._lanes = {
            Way.UP: Lane(shape.up_mbit_s, half_s, shape.jitter_s, self.seed),
            Way.DOWN: Lane(shape.down_mbit_s, half_s, shape.jitter_s, self.seed + 1),
        }
        self._listener = _socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(BACKLOG)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(self._listener), name="chaos-accept")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        assert self._accepting is not None
        for timer in self._timers.values():
            timer.cancel()
        tasks = [self._accepting, *(c.task for c in self._connections if c.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    def set(self, shape: Shape) -> None:
        """Another link from now on; connections stay."""
        self.shape = shape
        self._lanes[Way.UP].set(shape.up_mbit_s, shape.rtt_s / 2, shape.jitter_s)
        self._lanes[Way.DOWN].set(shape.down_mbit_s, shape.rtt_s / 2, shape.jitter_s)

    def freeze(self, seconds: float | None, ways: Iterable[Way] = tuple(Way)) -> None:
        """Let nothing pass for so long, or until `thaw`."""
        for way in ways:
            self._lanes[way].freeze(is_frozen=True)
            self._later(way, seconds, lambda lane=self._lanes[way]: lane.freeze(is_frozen=False))  # type: ignore[misc]

    def thaw(self) -> None:
        for lane in self._lanes.values():
            lane.freeze(is_frozen=False)

    def reset(self, refuse_s: float = 0.0) -> None:
        """Reset every connection, and each new one for some time."""
        for connection in self._connections:
            for sock in (connection.near, connection.far):
                # With a linger time of 0 the kernel sends a reset instead of the rest (socket(7), SO_LINGER).
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if connection.task:
                connection.task.cancel()
        self._is_refusing = refuse_s > 0
        self._later("refuse", refuse_s, lambda: setattr(self, "_is_refusing", False))

    def corrupt(self, way: Way, num_chunks: int = 1) -> None:
        self._lanes[way].corrupt(num_chunks)

    def inject(self, fault: Fault) -> None:
        """Do it now."""
        match fault.kind:
            case FaultKind.FREEZE:
                self.freeze(fault.seconds)
            case FaultKind.HALF_OPEN:
                self.freeze(fault.seconds, (fault.way,))
            case FaultKind.RESET:
                self.reset(fault.seconds)
            case FaultKind.CORRUPT:
                self.corrupt(fault.way)

    async def play(self, faults: Iterable[Fault]) -> None:
        """A schedule, from now."""
        started_s = asyncio.get_running_loop().time()
        for fault in faults:
            await asyncio.sleep(started_s + fault.at_s - asyncio.get_running_loop().time())
            self.inject(fault)

    def _later(self, what: object, seconds: float | None, function: Callable[[], None]) -> None:
        """A new time for the same thing replaces the old one."""
        if old := self._timers.pop(what, None):
            old.cancel()
        if seconds is not None:
            self._timers[what] = asyncio.get_running_loop().call_later(seconds, function)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(listener)
            self.num_connections += 1
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(near, _socket())
            self._connections.add(connection)
            connection.task = asyncio.create_task(self._serve(connection), name="chaos-connection")

    async def _serve(self, connection: _Connection) -> None:
        near, far = connection.near, connection.far
        try:
            if self._is_refusing:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            await asyncio.get_running_loop().sock_connect(far, (self.host, self.upstream_port))
            async with asyncio.TaskGroup() as group:
                group.create_task(_relay(near, far, self._lanes[Way.UP]))
                group.create_task(_relay(far, near, self._lanes[Way.DOWN]))
        except* OSError:
            pass  # one end is gone, and so the other will be
        finally:
            self._connections.discard(connection)
            near.close()
            far.close()


def _socket() -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, MAX_SEGMENT_BYTES)
    for option in (
        socket.SO_RCVBUF,
        socket.SO_SNDBUF,
    ):  # a listener's are inherited; they must be set before connecting
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    return sock


async def _relay(source: socket.socket, target: socket.socket, lane: Lane) -> None:
    """One direction of one connection, until its end was passed on. Raises OSError when a socket breaks."""
    travelling = Travelling()
    async with asyncio.TaskGroup() as group:
        group.create_task(_deliver(travelling, target, lane))
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(source, lane.chunk_bytes):
            await travelling.put(*await lane.transmit(data))
        await travelling.put(loop.time(), b"")


async def _deliver(travelling: Travelling, target: socket.socket, lane: Lane) -> None:
    loop = asyncio.get_running_loop()
    while True:
        at_s, data = await travelling.first()
        await lane.arrive(at_s)
        if not data:
            target.shutdown(socket.SHUT_WR)
            return
        await loop.sock_sendall(target, data)
        await travelling.done()


async def stand_for(host: str, port: int, listen: int, shape: Shape, faults: Sequence[Fault]) -> None:
    """Until cancelled."""
    async with ChaosProxy(host, port, shape, listen) as proxy:
        print(f"127.0.0.1:{proxy.port} stands for {host}:{port}: {shape}", file=sys.stderr, flush=True)
        await proxy.play(faults)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", nargs="?", help="HOST:PORT that the proxy stands for")
    parser.add_argument("--listen", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--up", type=float, help="Mbit/s towards it; without, as fast as it goes; 0: dead")
    parser.add_argument("--down", type=float, help="Mbit/s from it")
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0)
    parser.add_argument("--faults", type=int, default=0, help="how many, at random moments")
    parser.add_argument("--within-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="measure such a link and print what it is")
    options = parser.parse_args()
    shape = Shape(options.up, options.down, options.rtt_ms / 1000, options.jitter_ms / 1000)
    if options.check:
        from tools.chaos_check import measured

        print(json.dumps(asyncio.run(measured(shape)), indent=2))
        return
    host, _, port = (options.upstream or "").rpartition(":")
    if not host or not port.isdecimal():
        parser.error("name what the proxy stands for, as HOST:PORT, or --check")
    faults = random_faults(options.seed, options.faults, options.within_s)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(stand_for(host, int(port), options.listen, shape, faults))


if __name__ == "__main__":
    main()

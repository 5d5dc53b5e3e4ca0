"""What a link through the proxy really is: rates both ways, round trips, and what senders had in buffers."""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator

from tools.chaos_link import BYTES_PER_MBIT, Shape
from tools.chaos_proxy import ChaosProxy

ROUND_TRIPS = 20
WARM_UP_S, MEASURED_S = 0.5, 2.0
PIECE = bytes(16 * 1024)
ECHO, SINK, SOURCE = b"E", b"K", b"S"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Figures = dict[str, float | None]


async def measured(shape: Shape) -> Figures:
    """Figures of a link of this shape; takes about seven seconds. Errors are fractions of what was asked for."""
    async with far_end() as far, ChaosProxy("127.0.0.1", far.port, shape) as proxy:
        rtt_s = await round_trip_s(proxy.port)
        down_bytes_s = await down_rate(proxy.port)
        up_bytes_s, ahead_bytes = await far.up_rate(proxy.port)
    found: Figures = {
        "rtt_ms": round(1000 * rtt_s, 2),
        "down_mbit_s": round(down_bytes_s / BYTES_PER_MBIT, 3),
        "up_mbit_s": round(up_bytes_s / BYTES_PER_MBIT, 3),
        "sent_and_not_arrived_bytes": ahead_bytes,
    }
    wanted_s = shape.rtt_s + shape.jitter_s  # the mean of the jitter is half of it, each way
    found["rtt_added_ms"] = round(1000 * (rtt_s - wanted_s), 2)
    found["down_error"] = _error(down_bytes_s, shape.down_mbit_s)
    found["up_error"] = _error(up_bytes_s, shape.up_mbit_s)
    return found


def _error(bytes_s: float, mbit_s: float | None) -> float | None:
    return round(bytes_s / (mbit_s * BYTES_PER_MBIT) - 1, 4) if mbit_s else None


class FarEnd:
    """A server: echoes, swallows and counts, or sends without end, as the first byte says."""

    def __init__(self) -> None:
        self.port = 0
        self.num_swallowed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            match await reader.read(1):
                case b"E":
                    while data := await reader.read(1024):
                        writer.write(data)
                case b"K":
                    while data := await reader.read(len(PIECE)):
                        self.num_swallowed += len(data)
                case b"S":
                    while True:
                        writer.write(PIECE)
                        await writer.drain()
        writer.close()

    async def up_rate(self, port: int) -> tuple[float, int]:
        """Bytes a second that arrive here, and how many had left their sender and not arrived at the end."""
        self.num_swallowed = num_sent = 0
        loop = asyncio.get_running_loop()
        async with connected(port, SINK) as (_, writer):
            started_s, first = loop.time(), 0
            counting_s = None
            while (now_s := loop.time()) < started_s + WARM_UP_S + MEASURED_S:
                if counting_s is None and now_s >= started_s + WARM_UP_S:
                    counting_s, first = now_s, self.num_swallowed
                writer.write(PIECE)
                num_sent += len(PIECE)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MEASURED_S):
                        await writer.drain()
            took_s = loop.time() - (counting_s or started_s)
            return (self.num_swallowed - first) / took_s, num_sent - self.num_swallowed


@contextlib.asynccontextmanager
async def far_end() -> AsyncIterator[FarEnd]:
    far = FarEnd()
    server = await asyncio.start_server(far.serve, "127.0.0.1", 0)
    far.port = server.sockets[0].getsockname()[1]
    async with server:
        yield far


@contextlib.asynccontextmanager
async def connected(port: int, wish: bytes) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wish)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def round_trip_s(port: int) -> float:
    """The median of small messages, one after the other."""
    loop = asyncio.get_running_loop()
    took_s = []
    async with connected(port, ECHO) as (reader, writer):
        for _ in range(ROUND_TRIPS):
            sent_s = loop.time()
            writer.write(b"?" * 64)
            await reader.readexactly(64)
            took_s.append(loop.time() - sent_s)
    return statistics.median(took_s)


async def down_rate(port: int) -> float:
    """Bytes a second that arrive, after a warm-up."""
    loop = asyncio.get_running_loop()
    async with connected(port, SOURCE) as (reader, _):
        started_s = loop.time()
        while loop.time() < started_s + WARM_UP_S:
            await reader.read(len(PIECE))
        counting_s, num_bytes = loop.time(), 0
        while loop.time() < counting_s + MEASURED_S:
            num_bytes += len(await reader.read(len(PIECE)))
        return num_bytes / (loop.time() - counting_s)

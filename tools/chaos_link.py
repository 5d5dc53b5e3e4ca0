"""One direction of a bad link: a rate that all connections share, a delay, and what goes wrong on it.

Bytes pass a narrow place one chunk after another and then travel. Who sends faster than that waits: a chunk is read
only when there is room for it on the way, and the sockets around have small buffers.
"""

import asyncio
import enum
import random
from collections import deque
from dataclasses import dataclass

BYTES_PER_MBIT = 125_000
CHUNK_S = 0.005
"""A chunk takes about so long at the narrow place, so that others come between."""
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 512, 64 * 1024
CATCH_UP_S = 0.02
"""Timers fire late; what was missed of so much time is made up for, and no more, after a pause."""
MAX_TRAVELLING_BYTES = 4 * 2**20
"""Of one connection: 100 Mbit/s for 300 ms."""


class Way(enum.Enum):
    UP = "up"
    """Towards the address that the proxy stands for."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Shape:
    """A link. Rates in Mbit/s of TCP payload: None is as fast as it goes, 0 lets nothing pass.

    Each direction takes half of `rtt_s`, and a random part of `jitter_s` on top; order is kept.
    """

    up_mbit_s: float | None = None
    down_mbit_s: float | None = None
    rtt_s: float = 0.0
    jitter_s: float = 0.0


PERFECT = Shape()


class Lane:
    """One direction, for all connections together."""

    def __init__(self, mbit_s: float | None, delay_s: float, jitter_s: float, seed: int) -> None:
        self._draw = random.Random(seed)
        self._turn = asyncio.Lock()
        self._passable = asyncio.Event()
        self._free_at_s = 0.0
        self._is_frozen = False
        self._num_corrupted_next = 0
        self.set(mbit_s, delay_s, jitter_s)

    def set(self, mbit_s: float | None, delay_s: float, jitter_s: float) -> None:
        """From the next chunk on."""
        self._bytes_s = None if mbit_s is None else mbit_s * BYTES_PER_MBIT
        self._delay_s, self._jitter_s = delay_s, jitter_s
        self._update()

    def freeze(self, *, is_frozen: bool) -> None:
        """While frozen nothing passes and nothing arrives; connections stay."""
        self._is_frozen = is_frozen
        self._update()

    def corrupt(self, num_chunks: int) -> None:
        """One bit of each of the next chunks is turned over."""
        self._num_corrupted_next += num_chunks

    @property
    def chunk_bytes(self) -> int:
        """The most to read at once."""
        if self._bytes_s is None:
            return MAX_CHUNK_BYTES
        return min(max(int(self._bytes_s * CHUNK_S), MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)

    async def transmit(self, data: bytes) -> tuple[float, bytes]:
        """Pass the narrow place, in turn; when the bytes arrive (on the loop's clock), and how they look then."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            await self._passable.wait()
            now_s = loop.time()
            if self._bytes_s:
                self._free_at_s = max(self._free_at_s, now_s - CATCH_UP_S) + len(data) / self._bytes_s
                await asyncio.sleep(self._free_at_s - now_s)
                now_s = max(self._free_at_s, now_s)
            return now_s + self._delay_s + self._draw.random() * self._jitter_s, self._damaged(data)

    async def arrive(self, at_s: float) -> None:
        """Wait for the end of the way."""
        if (left_s := at_s - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left_s)
        await self._passable.wait()

    def _update(self) -> None:
        if self._is_frozen or self._bytes_s == 0:
            self._passable.clear()
        else:
            self._passable.set()

    def _damaged(self, data: bytes) -> bytes:
        if not self._num_corrupted_next or not data:
            return data
        self._num_corrupted_next -= 1
        damaged = bytearray(data)
        damaged[self._draw.randrange(len(data))] ^= 1 << self._draw.randrange(8)
        return bytes(damaged)


class Travelling:
    """Chunks of one connection on their way, in order and bounded. An empty chunk is the end of the stream."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._num_bytes = 0
        self._last_s = 0.0
        self._changed = asyncio.Condition()

    async def put(self, at_s: float, data: bytes) -> None:
        """Waits while too much is on the way."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._num_bytes < MAX_TRAVELLING_BYTES)
            self._last_s = max(self._last_s, at_s)
            self._chunks.append((self._last_s, data))
            self._num_bytes += len(data)
            self._changed.notify_all()

    async def first(self) -> tuple[float, bytes]:
        """The next to arrive; it stays on the way until `done`."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._chunks))
            return self._chunks[0]

    async def done(self) -> None:
        async with self._changed:
            _, data = self._chunks.popleft()
            self._num_bytes -= len(data)
            self._changed.notify_all()

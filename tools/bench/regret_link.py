"""Time and a link that are simulated: a loop whose clock jumps to the next event, and a way of one rate and delay.

The way is shaped as `tools/chaos_link.py` shapes a real one: both connections of a device share its rate in turns of a
small chunk, and what has passed travels for half a round trip.
"""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

from edgeagent.execution.transport.base import Subscription, topic_matches
from edgeagent.execution.transport.memory import MemoryBroker, MemoryTransport
from tools.chaos_link import BYTES_PER_MBIT, CHUNK_S, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES

T = TypeVar("T")
HEADER_BYTES = 60
"""Of a payload on the way: MQTT's fixed header, topic, packet identifier and properties."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Monotonic time is its own while `run_virtually` runs."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, with a clock on which computing takes no time and nobody waits."""
    loop = VirtualLoop()
    with mock.patch("time.monotonic", loop.time), asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


@dataclass(slots=True)
class Way:
    """One direction."""

    bytes_s: float
    delay_s: float
    _waiting: dict[bool, deque[tuple[int, Callable[[], None]]]] = field(
        default_factory=lambda: {False: deque(), True: deque()}
    )
    _is_passing: bool = False
    _was_bulk: bool = False
    _passed: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def send(self, num_bytes: int, deliver: Callable[[], None], *, bulk: bool) -> None:
        self._waiting[bulk].append((num_bytes + HEADER_BYTES, deliver))
        if not self._is_passing:
            self._pass_next()

    def _pass_next(self) -> None:
        lanes = [bulk for bulk in (not self._was_bulk, self._was_bulk) if self._waiting[bulk]]
        self._is_passing = bool(lanes)
        if not lanes:
            return
        bulk = self._was_bulk = lanes[0]
        chunk = min(max(int(self.bytes_s * CHUNK_S), MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
        count = min(chunk, self._waiting[bulk][0][0] - self._passed[bulk])
        asyncio.get_running_loop().call_later(count / self.bytes_s, self._passed_chunk, bulk, count)

    def _passed_chunk(self, bulk: bool, count: int) -> None:
        self._passed[bulk] += count
        size, deliver = self._waiting[bulk][0]
        if self._passed[bulk] >= size:
            self._waiting[bulk].popleft()
            self._passed[bulk] = 0
            asyncio.get_running_loop().call_later(self.delay_s, deliver)
        self._pass_next()


class LinkedTransport(MemoryTransport):
    """A device's two connections to a broker behind a link."""

    def __init__(self, broker: MemoryBroker, mbit_s: float, rtt_s: float, hop_s: float) -> None:
        super().__init__(broker)
        delay_s = rtt_s / 2 + hop_s
        self._up = Way(mbit_s * BYTES_PER_MBIT, delay_s)
        self._down = Way(mbit_s * BYTES_PER_MBIT, delay_s)
        self._bulk: set[int] = set()
        self._link_broker = broker
        broker.transports.append(self)

    def publish(self, topic: str, payload: bytes, *, bulk: bool = False, retain: bool = False) -> None:
        del retain
        self._up.send(len(payload), lambda: self._link_broker.deliver(topic, payload), bulk=bulk)

    def subscribe(self, topic_filter: str, *, bulk: bool = False) -> Subscription:
        subscription = super().subscribe(topic_filter)
        if bulk:
            self._bulk.add(id(subscription))
        return subscription

    def receive(self, topic: str, payload: bytes) -> None:
        for each in self._subscriptions:
            if topic_matches(each.topic_filter, topic):
                is_bulk = id(each) in self._bulk
                self._down.send(len(payload), _putting(each, topic, payload), bulk=is_bulk)


def _putting(subscription: Subscription, topic: str, payload: bytes) -> Callable[[], None]:
    return lambda: subscription.put(topic, payload)

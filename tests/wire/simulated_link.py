"""A sender and a receiver of blocks on the two ends of a link of one rate and delay, in simulated time."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeagent.wire.blocks import BlockReceiver
from edgeagent.wire.frames import FRAGMENT_DATA_BYTES, Fragment
from edgeagent.wire.sending import BlockSender

OVERHEAD_BYTES = 128
"""Of a fragment on the way: its header, the frame's, MQTT's topic, the tag."""
MAX_EVENTS = 200_000


@dataclass(slots=True)
class SimulatedLink:
    """Blocks go over a queue of `bytes_s` and half of `rtt_s`, acknowledgements come back after the other half.

    `loses` says of each departure whether it is lost, by time; `jitter_s` delays some, without changing the order.
    """

    sender: BlockSender
    receiver: BlockReceiver
    bytes_s: float
    rtt_s: float
    jitter_s: float = 0.0
    seed: int = 0
    loses: Callable[[float, random.Random], bool] = lambda _now_s, _draw: False
    now_s: float = 0.0
    max_wait_s: float = 0.0
    """The longest that a small message would have waited behind what was queued."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When how many bytes of blocks were there."""
    num_sent: int = 0
    num_needless: int = 0
    """Sent again although an earlier copy was on its way or there."""
    num_lost: int = 0
    max_flying: int = 0
    """Bytes of blocks on the way at once."""
    completed: list[int] = field(default_factory=list)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: "itertools.count[int]" = field(default_factory=itertools.count)
    _free_at_s: float = 0.0
    _last_arrival_s: float = 0.0
    _flying: dict[int, int] = field(default_factory=dict)
    _arrived: set[int] = field(default_factory=set)
    _draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)

    def run(self, until_s: float = 3600.0) -> None:
        """Until all is acknowledged, or that time."""
        self._pump()
        for _ in range(MAX_EVENTS):
            if self.sender.is_done or not self._step(until_s):
                return
        raise AssertionError("it goes on without end")

    def at(self, at_s: float, function: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._count), function))

    def _step(self, until_s: float) -> bool:
        timer_s = self.sender.next_at_s
        event_s = self._events[0][0] if self._events else None
        next_s = min((t for t in (timer_s, event_s) if t is not None), default=None)
        assert next_s is not None, "both ends wait for each other"
        if next_s > until_s:
            return False
        self.now_s = max(self.now_s, next_s)
        if event_s is not None and event_s <= self.now_s:
            heapq.heappop(self._events)[2]()
        self._pump()
        return True

    def _pump(self) -> None:
        for number, fragment in self.sender.take(self.now_s):
            self._send(number, fragment)
        self.max_wait_s = max(self.max_wait_s, self._free_at_s - self.now_s)
        self.max_flying = max(self.max_flying, sum(self._flying.values()))

    def _send(self, number: int, fragment: Fragment) -> None:
        self.num_sent += 1
        self.num_needless += number in self._flying or number in self._arrived
        self._free_at_s = max(self._free_at_s, self.now_s) + (len(fragment.data) + OVERHEAD_BYTES) / self.bytes_s
        if self.loses(self.now_s, self._draw):
            self.num_lost += 1
            return
        self._flying[number] = len(fragment.data)
        arrival_s = self._free_at_s + self.rtt_s / 2 + self._draw.random() * self.jitter_s
        self._last_arrival_s = max(self._last_arrival_s, arrival_s)
        self.at(self._last_arrival_s, lambda: self._arrive(number, fragment))

    def _arrive(self, number: int, fragment: Fragment) -> None:
        assert len(fragment.data) <= FRAGMENT_DATA_BYTES
        completed = self.receiver.take(number, fragment)
        if number not in self._arrived:
            self.arrivals.append((self.now_s, len(fragment.data)))
        self._arrived.add(number)
        self._flying.pop(number, None)
        if completed is not None:
            self.completed.append(completed)
        if completed is not None or self.receiver.ack_due():
            ack = self.receiver.ack()
            self.at(self.now_s + self.rtt_s / 2, lambda: self.sender.acknowledge(ack, self.now_s))

    def goodput(self, from_s: float, until_s: float) -> float:
        """Bytes a second of blocks that arrived between two moments."""
        return sum(n for at_s, n in self.arrivals if from_s <= at_s < until_s) / (until_s - from_s)

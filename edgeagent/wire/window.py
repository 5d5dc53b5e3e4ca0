"""How many bytes of blocks may be on their way: bandwidth times round trip, and a short queue. No I/O, no clock.

It grows by what is acknowledged, twofold in a round trip, until a queue shows, but not over what the closest
acknowledgements say that the link may carry: the queue of what is too much shows a round trip late. From then on it is
the rate times the shortest round trip, and QUEUE_S more: the standing queue that keeps a link busy, as FAST TCP has it
(C. Jin et al., INFOCOM 2004). The rate is what was delivered between a fragment's departure and its acknowledgement, as
in BBR (N. Cardwell et al., ACM Queue 14(5), 2016). Fragments leave at a pace: what a window opens would make small
messages wait if it left in one burst.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.wire.frames import FRAGMENT_DATA_BYTES, GRAIN_BYTES

FIRST_BYTES = 2 * GRAIN_BYTES
"""The window while nothing is known: 70 ms of a link of 1 Mbit/s."""
MAX_BYTES = 4 * 2**20
"""Covers 100 Mbit/s times 250 ms and the queue; what a sender may leave in brokers' memory."""
QUEUE_S = 0.05
"""The queue aimed at: what a small message waits behind blocks on the same link, and hardly ever twice as much."""
FRAGMENT_S = 0.015
"""A fragment takes about so long on the link, within GRAIN_BYTES and FRAGMENT_DATA_BYTES."""
MAX_FRAGMENTS = 8
"""A window is not cut finer: a client may have few messages in flight (Mosquitto: 20), acknowledgements among them."""
PACE_GAIN = 1.25
"""Fragments leave so much faster than the window's size asks for, so that its growth shows (BBR's gain)."""
BURST_S = 0.005
"""What may leave at once after a pause: timers are no finer."""
NUM_RECENT = 3
"""Acknowledgements in a row that show a queue; one alone may be jitter."""
NUM_ROUNDS = 4
"""Round trips whose highest rate counts: long enough for a stutter, short enough for a link that became slower."""
RESUMED_PART = 0.25
"""Of a window that was right before: what a new sender starts with, and what is left after a silence."""
FIRST_TIMEOUT_S, MIN_TIMEOUT_S, MAX_TIMEOUT_S = 1.0, 0.25, 8.0
"""RFC 6298 has 1 s as the first and smallest. A session's lease is 2 s: a smaller one leaves time to repair."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a sender found out about its link, for the next one to the same place."""

    bytes_s: float
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class Departure:
    """A fragment that left at `at_s`; `delivered` bytes had arrived by then, the last of them at `delivered_at_s`."""

    num_bytes: int
    at_s: float
    is_repeat: bool
    delivered: int
    delivered_at_s: float


class Window:
    """Told of departures and arrivals, says how much may be in flight, in pieces of what size, and for how long."""

    def __init__(self, pace: Pace | None = None) -> None:
        self.num_bytes = float(FIRST_BYTES)
        self.in_flight = 0
        self.base_s: float | None = None
        """The shortest round trip: nearly without a queue."""
        self._ready_at_s = 0.0
        self._is_growing = True
        self._fastest = 0.0
        """What two acknowledgements in a row showed of the link, bytes a second, since it grows."""
        self._rates: deque[float] = deque(maxlen=NUM_ROUNDS)
        self._recent_s: deque[float] = deque(maxlen=NUM_RECENT)
        self._delivered = 0
        self._delivered_at_s = 0.0
        self._round_from = 0
        self._round_s: float | None = None
        self._smoothed_s: float | None = None
        self._deviation_s = 0.0
        if pace:
            self.num_bytes = self._clamped(RESUMED_PART * pace.bytes_s * (pace.round_trip_s + QUEUE_S))

    @property
    def bytes_s(self) -> float:
        """The rate found, 0 before the first round trip."""
        return max(self._rates, default=0.0)

    @property
    def pace(self) -> Pace | None:
        """None before a round trip was seen."""
        return None if self.base_s is None or not self._rates else Pace(self.bytes_s, self.base_s)

    @property
    def fragment_bytes(self) -> int:
        """Whole grains: large ones cost less, small ones let others pass."""
        known_bytes_s = max(self.bytes_s, min(self._pace_bytes_s, self._fastest))
        grains = int(max(known_bytes_s * FRAGMENT_S, self.num_bytes / MAX_FRAGMENTS)) // GRAIN_BYTES
        return min(max(grains, 1) * GRAIN_BYTES, FRAGMENT_DATA_BYTES)

    @property
    def timeout_s(self) -> float:
        """Without a word for so long, what is in flight has to be doubted (RFC 6298)."""
        if self._smoothed_s is None:
            return FIRST_TIMEOUT_S
        return min(max(self._smoothed_s + 4 * self._deviation_s, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def leaves_at_s(self, num_bytes: int) -> float | None:
        """When a fragment of so many bytes may leave; None: not before something is acknowledged.

        Two may always be under way: with one, the link would idle, and the receiver wait for the second.
        """
        if self.in_flight + num_bytes <= 2 * num_bytes:
            return 0.0
        return self._ready_at_s if self.in_flight + num_bytes <= self.num_bytes else None

    def depart(self, num_bytes: int, now_s: float, *, is_repeat: bool = False) -> Departure:
        if not self.in_flight:
            self._delivered_at_s = now_s  # the pause before does not count as slowness
        if pace := self._pace_bytes_s:
            self._ready_at_s = max(self._ready_at_s, now_s - BURST_S) + num_bytes / (PACE_GAIN * pace)
        self.in_flight += num_bytes
        return Departure(num_bytes, now_s, is_repeat, self._delivered, self._delivered_at_s)

    def arrive(self, departures: Sequence[Departure], now_s: float) -> None:
        """These are acknowledged, oldest first, by one word that came now."""
        was_used = self.in_flight > self.num_bytes / 2
        num_bytes = sum(each.num_bytes for each in departures)
        self.in_flight -= num_bytes
        self._delivered += num_bytes
        if self._is_growing and now_s > self._delivered_at_s:
            self._fastest = max(self._fastest, num_bytes / (now_s - self._delivered_at_s))
        self._delivered_at_s = now_s
        newest = departures[-1]
        if newest.is_repeat and now_s - newest.at_s < (self.base_s or now_s):
            return  # the first copy is meant (P. Karn, C. Partridge, SIGCOMM 1987)
        self._note_round_trip(now_s - newest.at_s)
        self._resize(newest, now_s, num_bytes if was_used else 0)

    def lose(self, departure: Departure) -> None:
        """It will not be acknowledged any more."""
        self.in_flight -= departure.num_bytes

    def restart(self) -> None:
        """Nothing was heard for a time: the link may be another one now, the more so each time."""
        self.num_bytes = self._clamped(RESUMED_PART * self.num_bytes)
        self._is_growing, self._fastest = True, 0.0
        self._rates.clear()
        self._recent_s.clear()

    @property
    def _pace_bytes_s(self) -> float:
        """The rate that the window stands for; 0 before the first round trip."""
        grown = self.num_bytes / self.base_s if self._is_growing and self.base_s else 0.0
        return max(self.bytes_s, grown)

    def _note_round_trip(self, took_s: float) -> None:
        self.base_s = took_s if self.base_s is None else min(self.base_s, took_s)
        self._round_s = took_s if self._round_s is None else min(self._round_s, took_s)
        self._recent_s.append(took_s)
        if self._smoothed_s is None:
            self._smoothed_s, self._deviation_s = took_s, took_s / 2
            return
        self._deviation_s += (abs(took_s - self._smoothed_s) - self._deviation_s) / 4
        self._smoothed_s += (took_s - self._smoothed_s) / 8

    def _resize(self, newest: Departure, now_s: float, num_used: int) -> None:
        assert self.base_s is not None
        if self._is_growing and self._recent_s[-1] - self.base_s < QUEUE_S / 2:
            grown = min(self.num_bytes + num_used, self._fastest * (self.base_s + QUEUE_S))
            self.num_bytes = self._clamped(max(self.num_bytes, grown))
        is_queued = len(self._recent_s) == NUM_RECENT and min(self._recent_s) - self.base_s > QUEUE_S / 2
        is_round = newest.delivered >= self._round_from
        if is_round or (self._is_growing and is_queued):
            self._note_rate(newest, now_s)
        if self._is_growing and is_queued:
            self._is_growing = False
            self._settle(self.base_s)
        elif is_round and not self._is_growing:
            self._settle(self.base_s)
            assert self._round_s is not None
            if self._round_s - self.base_s < QUEUE_S / 2:  # the link may have become faster
                self._is_growing, self._fastest = True, 0.0
        if is_round:  # what leaves from now on will end the next one by its arrival
            self._round_from, self._round_s = self._delivered, None

    def _note_rate(self, newest: Departure, now_s: float) -> None:
        if (took_s := now_s - newest.delivered_at_s) > 0:
            self._rates.append((self._delivered - newest.delivered) / took_s)

    def _settle(self, base_s: float) -> None:
        self.num_bytes = self._clamped(self.bytes_s * (base_s + QUEUE_S))
        if self.num_bytes <= 2 * self.fragment_bytes:
            # Two fragments are no queue: if the round trip is longer than it was, then because the way is.
            self.base_s = self._round_s

    def _clamped(self, num_bytes: float) -> float:
        return min(max(num_bytes, 2.0 * GRAIN_BYTES), float(MAX_BYTES))

"""Sending blocks at the pace of the link. No I/O, no clock: `now_s`, monotonic seconds, comes from outside.

Fragments are numbered in the order of first sending; the receiver (`blocks`) acknowledges these numbers. What is lost
is found by what came later (as in RACK, RFC 8985), or, when nothing comes at all, by asking with one fragment;
whatever else is in flight waits for the answer to that.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeagent.core.errors import WireError
from edgeagent.wire.blocks import MAX_AHEAD
from edgeagent.wire.frames import Fragment, block_digest
from edgeagent.wire.messages import Ack
from edgeagent.wire.window import Departure, Pace, Window

MAX_DOUBLINGS = 5
"""Of the time between two questions, as long as nothing is heard."""

Numbered = tuple[int, Fragment]


@dataclass(slots=True)
class _Rest:
    """What is still to be cut of a block."""

    index: int
    block: bytes
    digest: bytes
    offset: int = 0

    def cut(self, num_bytes: int) -> Fragment:
        data = self.block[self.offset : self.offset + num_bytes]
        fragment = Fragment(self.index, self.offset, len(self.block), self.digest, data)
        self.offset += len(data)
        return fragment

    @property
    def is_cut(self) -> bool:
        return self.offset >= len(self.block)


class BlockSender:
    """Sends blocks in the given order, as far ahead of the acknowledgements as its window allows.

    Call `take` after whatever was told to it, and at the latest at `next_at_s`.
    """

    def __init__(self, blocks: Iterable[tuple[int, bytes]], pace: Pace | None = None) -> None:
        self._waiting = deque(blocks)
        self._rest: _Rest | None = None
        self._in_flight: dict[int, tuple[Fragment, Departure]] = {}
        """In the order of the newest departures."""
        self._lost: dict[int, Fragment] = {}
        self._next_number = 0
        self._base = 0
        self._window = Window(pace)
        self._heard_at_s = 0.0
        self._num_asked = 0
        self._is_asking = False

    def add(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Further blocks, behind the others."""
        self._waiting.extend(blocks)

    @property
    def is_done(self) -> bool:
        return not (self._waiting or self._rest or self._in_flight or self._lost)

    @property
    def num_queued_bytes(self) -> int:
        """Of blocks that have not left yet: the window takes no more of them now."""
        rest = len(self._rest.block) - self._rest.offset if self._rest else 0
        return rest + sum(len(block) for _, block in self._waiting)

    @property
    def num_arrived(self) -> int:
        """Fragments that came, up to the first that is not known to."""
        return self._base

    @property
    def pace(self) -> Pace | None:
        """What was found out about the link; None before the first round trip."""
        return self._window.pace

    @property
    def next_at_s(self) -> float | None:
        """When the next fragment may leave, or silence becomes suspicious; None: when something is told."""
        times_s = (self._suspicious_at_s if self._in_flight else None, self._leaves_at_s())
        return min((t for t in times_s if t is not None), default=None)

    def take(self, now_s: float) -> list[Numbered]:
        """What goes now, with numbers: lost fragments again, the question of a silence, then new ones."""
        if not self._in_flight:
            self._heard_at_s = now_s  # nobody owes an answer to nothing
        ready = [self._ask(now_s)] if self._is_asking or self._is_overdue(now_s) else []
        while (leaves_at_s := self._leaves_at_s()) is not None and leaves_at_s <= now_s:
            ready.append(self._next(now_s))
        return ready

    def acknowledge(self, ack: Ack, now_s: float) -> None:
        """Raises WireError when the other end acknowledges what was never sent."""
        bits = int(ack.bitmap or "0", 16)
        if max(ack.base, ack.base + bits.bit_length() if bits else 0) > self._next_number:
            raise WireError(f"a fragment from {ack.base} on was acknowledged before it was sent")
        self._base = max(self._base, ack.base)
        self._heard_at_s, self._num_asked, self._is_asking = now_s, 0, False
        for number in [n for n in self._lost if _is_in(n, ack.base, bits)]:
            del self._lost[number]
        arrived = [n for n in self._in_flight if _is_in(n, ack.base, bits)]
        departures = [self._in_flight.pop(number)[1] for number in arrived]
        if departures:
            self._window.arrive(departures, now_s)
            self._find_lost(departures, now_s)

    def skip_before(self, block: int) -> None:
        """The receiver has made blocks `0 … block-1` itself."""
        self._waiting = deque(each for each in self._waiting if each[0] >= block)
        if self._rest and self._rest.index < block:
            self._rest = None

    def resume(self, now_s: float) -> None:
        """The connection was away and is back: what came is asked at once."""
        self._is_asking, self._heard_at_s, self._num_asked = bool(self._in_flight), now_s, 0

    def cancel(self) -> None:
        """Nothing more is wanted: nothing more is sent, and nothing waited for."""
        self._waiting.clear()
        self._rest = None
        self._in_flight.clear()
        self._lost.clear()

    def _leaves_at_s(self) -> float | None:
        """When what is next may leave; None: nothing is, or not before something is acknowledged."""
        if self._lost:
            return self._window.leaves_at_s(len(self._lost[min(self._lost)].data))
        if not (self._rest or self._waiting) or self._next_number >= self._base + MAX_AHEAD:
            return None
        return self._window.leaves_at_s(self._window.fragment_bytes)

    def _next(self, now_s: float) -> Numbered:
        if self._lost:
            number = min(self._lost)
            return self._depart(number, self._lost.pop(number), now_s, is_repeat=True)
        if self._rest is None:
            index, block = self._waiting.popleft()
            self._rest = _Rest(index, block, block_digest(block))
        fragment = self._rest.cut(self._window.fragment_bytes)
        if self._rest.is_cut:
            self._rest = None
        self._next_number += 1
        return self._depart(self._next_number - 1, fragment, now_s)

    def _depart(self, number: int, fragment: Fragment, now_s: float, *, is_repeat: bool = False) -> Numbered:
        departure = self._window.depart(len(fragment.data), now_s, is_repeat=is_repeat)
        self._in_flight[number] = fragment, departure
        return number, fragment

    @property
    def _suspicious_at_s(self) -> float:
        return self._heard_at_s + self._window.timeout_s * 2.0 ** min(self._num_asked, MAX_DOUBLINGS)

    def _is_overdue(self, now_s: float) -> bool:
        return bool(self._in_flight) and now_s >= self._suspicious_at_s

    def _ask(self, now_s: float) -> Numbered:
        """The newest fragment once more: its acknowledgement will tell of all others."""
        if not self._is_asking:
            self._num_asked += 1
            self._window.restart()
        self._is_asking = False
        number, (fragment, departure) = self._in_flight.popitem()
        self._window.lose(departure)
        return self._depart(number, fragment, now_s, is_repeat=True)

    def _find_lost(self, arrived: Sequence[Departure], now_s: float) -> None:
        """Of fragments that left well before one that came, nothing is to be expected: a connection keeps order."""
        base_s = self._window.base_s or 0.0
        # A repeated fragment that is acknowledged sooner than any round trip takes: the first copy had come.
        newest_s = max((d.at_s for d in arrived if not d.is_repeat or now_s - d.at_s >= base_s), default=None)
        if newest_s is None:
            return
        for number, (fragment, departure) in list(self._in_flight.items()):
            if departure.at_s < newest_s - base_s / 4:
                del self._in_flight[number]
                self._window.lose(departure)
                self._lost[number] = fragment


def _is_in(number: int, base: int, bits: int) -> bool:
    return number < base or bool(bits >> (number - base) & 1)

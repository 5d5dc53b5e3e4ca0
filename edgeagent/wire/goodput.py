"""What a link carries, from a block that comes over it: when enough is known, and how much. No I/O, no clock.

A sender's window grows at first, up to twofold in a round trip; so what came in all over the time it took says little
of a long fast link. The newer half of what came, about its last round trip, says more; where it came faster than what
was before, the next would have come faster again.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field

LEAST_BYTES = 256 * 1024
"""Of less, the pace is not looked at."""
LONGEST_S = 1.0
"""A request may be waiting for it."""
GROWTH, MOST_GROWTH = 1.25, 2.0
"""From one round trip to the next: with less the window has found the link, and it has no more."""
MIN_SAMPLES = 4
"""Of fewer, only the whole says something."""


@dataclass(slots=True)
class Goodput:
    """Told how much has arrived since `began_s`."""

    began_s: float
    _times_s: list[float] = field(default_factory=list)
    _totals: list[int] = field(default_factory=list)

    def note(self, now_s: float, num_bytes: int) -> None:
        """So many bytes are here now, in all."""
        if num_bytes > self._total:
            self._times_s.append(now_s)
            self._totals.append(num_bytes)

    def is_enough(self, now_s: float) -> bool:
        """Whether more would tell little, or take long."""
        if now_s - self.began_s >= LONGEST_S:
            return True
        return self._total >= LEAST_BYTES and self._growth < GROWTH

    def bytes_s(self, now_s: float) -> float:
        """What the next round trip would have carried; of all where too little came to tell. More than 0."""
        if len(self._totals) >= MIN_SAMPLES and (pace := self._pace(0.5, 1.0)):
            grows = GROWTH < self._growth < math.inf
            return pace * (min(self._growth, MOST_GROWTH) if grows else 1.0)
        end_s = self._times_s[-1] if self._times_s else now_s
        return max(1, self._total) / max(end_s - self.began_s, 1e-4)

    @property
    def _growth(self) -> float:
        """Of the pace, from the second quarter of what came to the newer half; infinite where they cannot be told."""
        newest, before = self._pace(0.5, 1.0), self._pace(0.25, 0.5)
        return newest / before if newest and before else math.inf

    @property
    def _total(self) -> int:
        return self._totals[-1] if self._totals else 0

    def _pace(self, first: float, last: float) -> float | None:
        """Bytes a second between these parts of what came; None where they came at once."""
        low, high = (bisect_left(self._totals, part * self._total) for part in (first, last))
        took_s = self._times_s[high] - self._times_s[low] if self._totals else 0.0
        return (self._totals[high] - self._totals[low]) / took_s if took_s > 0 else None

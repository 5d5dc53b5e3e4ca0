"""What is worth choosing among several good things, and which of them a user's targets take. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeagent.model.limits import Objective
from edgeagent.model.placement import Option

Axes = tuple[float | None, ...]
"""Figures of which less is better; None: not known."""

UNKNOWN = float("inf")


class HasAxes(Protocol):
    @property
    def axes(self) -> Axes: ...


def dominates(better: Axes, worse: Axes) -> bool:
    """Nowhere worse and somewhere better. What one of the two does not know decides for neither."""
    if any((a is None) != (b is None) for a, b in zip(better, worse, strict=True)):
        return False
    pairs = [(a, b) for a, b in zip(better, worse, strict=True) if a is not None and b is not None]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def front(rows: Sequence[HasAxes]) -> list[bool]:
    """Whether each row is on the Pareto front: dominated by none of the others."""
    return [not any(dominates(other.axes, row.axes) for other in rows) for row in rows]


@dataclass(frozen=True, slots=True)
class Entry:
    """One option of one variant, as the policy sees it.

    `rank`: the variant's place in quality, 0 is best. `is_coarse`: with a coarser cache than was wanted. `place`: the
    option's among its variant's, best first.
    """

    variant: str
    rank: int
    is_coarse: bool
    place: int
    option: Option
    reaches_targets: bool
    energy_j: float | None

    @property
    def quality(self) -> tuple[int, bool]:
        return (self.rank, self.is_coarse)

    @property
    def seconds(self) -> float:
        speed = self.option.speed
        return (speed.request_s if speed else None) or UNKNOWN

    @property
    def joules(self) -> float:
        return UNKNOWN if self.energy_j is None else self.energy_j


def choose(entries: Iterable[Entry], memory_bytes: int, objective: Objective) -> Entry | None:
    """The preferred entry that fits; None when none does. More memory never means worse quality.

    To hold that, every smaller budget at which something changes is decided first, and no later choice may be worse
    than an earlier one: a faster variant of less quality is not taken where less memory would have got the better one.
    """
    fitting = [entry for entry in entries if entry.option.least_bytes <= memory_bytes]
    chosen: Entry | None = None
    for budget in sorted({entry.option.least_bytes for entry in fitting}):
        within = [entry for entry in fitting if entry.option.least_bytes <= budget]
        no_worse = [entry for entry in within if chosen is None or entry.quality <= chosen.quality]
        chosen = prefer(no_worse, objective)
    return chosen


def prefer(entries: Sequence[Entry], objective: Objective) -> Entry:
    """The best quality for `quality`; else the best of those that reach the targets, or the fastest if none does."""
    if objective == "quality":
        return min(entries, key=lambda e: (e.quality, e.seconds, e.place, e.option.least_bytes, e.variant))
    reaching = [entry for entry in entries if entry.reaches_targets]
    if not reaching:
        return min(entries, key=lambda e: (e.seconds, e.quality, e.place, e.option.least_bytes, e.variant))
    if objective == "energy":
        return min(reaching, key=lambda e: (e.joules, e.quality, e.place, e.seconds, e.option.least_bytes, e.variant))
    return min(reaching, key=lambda e: (e.quality, e.place, e.seconds, e.option.least_bytes, e.variant))

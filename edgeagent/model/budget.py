"""One budget of memory for all models: what must go so that another may come. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.model.explain import megabytes


@dataclass(frozen=True, slots=True)
class Holding:
    """A model that has memory, or was promised some. `resident_bytes`: what its worker has now, as measured."""

    name: str
    forecast_bytes: int
    resident_bytes: int
    is_in_use: bool
    used_at_s: float

    @property
    def committed_bytes(self) -> int:
        """What it may come to have: a forecast that was too low is corrected by what was measured."""
        return max(self.forecast_bytes, self.resident_bytes)

    @property
    def growth_bytes(self) -> int:
        """What it will still take, of memory that looks free: caches fill as they are used."""
        return self.committed_bytes - self.resident_bytes


@dataclass(frozen=True, slots=True)
class Room:
    """`free_bytes` may be taken now, beside what is in memory; `total_bytes` by all models together."""

    free_bytes: int
    total_bytes: int | None = None

    def fits(self, wanted_bytes: int, staying: Sequence[Holding], leaving: Sequence[Holding] = ()) -> bool:
        free = self.free_bytes + sum(h.resident_bytes for h in leaving)
        if wanted_bytes + sum(h.growth_bytes for h in staying) > free:
            return False
        together = wanted_bytes + sum(h.committed_bytes for h in staying)
        return self.total_bytes is None or together <= self.total_bytes


@dataclass(frozen=True, slots=True)
class Admission:
    """`unload` is what must go first, nothing if it is of no use. `is_hopeless`: no waiting for others helps."""

    fits: bool
    unload: tuple[Holding, ...] = ()
    is_hopeless: bool = False


def admit(wanted_bytes: int, holdings: Sequence[Holding], room: Room) -> Admission:
    """The longest unused go first, as few as are needed; one in use never goes."""
    idle = sorted((h for h in holdings if not h.is_in_use), key=lambda h: h.used_at_s)
    for count in range(len(idle) + 1):
        if room.fits(wanted_bytes, _without(holdings, idle[:count]), idle[:count]):
            return Admission(True, tuple(_needed(wanted_bytes, holdings, idle[:count], room)))
    return Admission(False, is_hopeless=not room.fits(wanted_bytes, (), holdings))


def _needed(wanted_bytes: int, holdings: Sequence[Holding], going: list[Holding], room: Room) -> list[Holding]:
    """Of those, without any that may stay after all, the last used first."""
    for candidate in reversed(going):
        others = [h for h in going if h is not candidate]
        if room.fits(wanted_bytes, _without(holdings, others), others):
            going = others
    return going


def _without(holdings: Sequence[Holding], gone: Sequence[Holding]) -> list[Holding]:
    return [h for h in holdings if not any(h is other for other in gone)]


def tell(holdings: Sequence[Holding]) -> str:
    """Who holds what, for people."""
    return ", ".join(f"{h.name} {megabytes(h.committed_bytes)}{' in use' if h.is_in_use else ''}" for h in holdings)


def sequences_within(wanted: int, one_bytes: int, sequence_bytes: int, memory_bytes: int) -> int:
    """How many answers at once fit, at least one: memory of n is that of one and n - 1 further caches.

    `one_bytes` is a worker's peak with one sequence, `sequence_bytes` the cache of a whole context.
    """
    if sequence_bytes <= 0:
        return max(1, wanted)
    spare = max(0, memory_bytes - one_bytes)
    return max(1, min(wanted, 1 + spare // sequence_bytes))


def memory_of(sequences: int, one_bytes: int, sequence_bytes: int) -> int:
    return one_bytes + (sequences - 1) * sequence_bytes

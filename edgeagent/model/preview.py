"""What a pull would do: the sizes, hashes and room to know before a download."""

from dataclasses import dataclass

from edgeagent.core.cards import ModelCard, ModelFile, Variant, WheelSource
from edgeagent.model.fetch import Facts
from edgeagent.model.space import Space


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that a pull would fetch. `here_bytes` of it are here from an earlier try."""

    file: ModelFile
    facts: Facts
    here_bytes: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a pull would do. Nothing is missing of a variant that is here."""

    card: ModelCard
    variant: Variant
    missing: tuple[Missing, ...]
    space: Space

    @property
    def needed_bytes(self) -> int | None:
        """Bytes still to be fetched; None when a size is unknown."""
        return needed_bytes(self.missing)

    @property
    def fits_disk(self) -> bool | None:
        needed = self.needed_bytes
        return None if needed is None else self.space.has_disk(needed + passing_bytes(self.missing))

    @property
    def fits_quota(self) -> bool | None:
        """Whether it fits, after what would have to go; an unknown size fits no quota."""
        if self.needed_bytes is None and self.space.quota_bytes:
            return False
        return self.space.evictions is not None


def needed_bytes(missing: tuple[Missing, ...]) -> int | None:
    sizes = [None if m.facts.bytes is None else max(0, m.facts.bytes - m.here_bytes) for m in missing]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def passing_bytes(missing: tuple[Missing, ...]) -> int:
    """Bytes on the disk only while fetching: of a wheel, pip's temporary copy, and the wheel."""
    return 2 * max((m.facts.bytes or 0 for m in missing if isinstance(m.file.source, WheelSource)), default=0)

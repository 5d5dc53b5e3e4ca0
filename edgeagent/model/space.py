"""Room for model files: what the disk and the quota allow, and what has to go for it."""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.cards import ModelCard, ModelFile, Variant
from edgeagent.core.errors import DownloadError
from edgeagent.model import files, locks
from edgeagent.model.quota import Quota, Tenant, choose_evictions
from edgeagent.model.registry import Registry

SPARE_DISK_BYTES = 64 * 2**20

log = logging.getLogger(__name__)

Spare = tuple[ModelCard, Variant]


@dataclass(frozen=True, slots=True)
class Space:
    """What is free and what is taken. `evictions`: what would have to go; None when that would not do."""

    free_bytes: int
    used_bytes: int
    quota_bytes: int
    evictions: tuple[Tenant, ...] | None

    def has_disk(self, needed: int) -> bool:
        """Whether `needed` more bytes fit the disk and leave some, after the evictions."""
        freed = sum(tenant.bytes for tenant in self.evictions or ())
        return needed + SPARE_DISK_BYTES <= self.free_bytes + freed


class ModelFolder:
    """The folder of all models: `<folder>/<model id>/<file>`, with partial files below `.partial`."""

    def __init__(self, folder: Path, registry: Registry, quota: Quota) -> None:
        self.folder = folder
        self._registry = registry
        self._quota = quota

    @property
    def has_quota(self) -> bool:
        return self._quota.limit_bytes > 0

    def path(self, card: ModelCard, file: ModelFile) -> Path:
        return self.folder / card.id / file.file

    def partial(self, card: ModelCard, file: ModelFile) -> Path:
        """Where the file grows until it is whole and verified."""
        return self.folder / card.id / ".partial" / file.file

    def require_disk(self, needed: int) -> None:
        """Raises DownloadError when the folder's disk has less than `needed` bytes and some spare."""
        free = self.free_bytes()
        if free < needed + SPARE_DISK_BYTES:
            wanted = f"{(needed + SPARE_DISK_BYTES) / 1e6:.0f} MB are needed in {self.folder}"
            raise DownloadError(f"{wanted}, {free / 1e6:.0f} MB are free; free some or set models.dir")

    def free_bytes(self) -> int:
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        return shutil.disk_usage(there).free

    def look(self, needed: int, spare: Spare | None = None) -> Space:
        """What `needed` more bytes would take, without doing it; `spare` never goes."""
        used = sum(_bytes_below(self.folder))
        excess = used + needed - self._quota.limit_bytes
        evictions: list[Tenant] | None = []
        if self._quota.limit_bytes and excess > 0:
            evictions = choose_evictions(self._tenants(spare), excess, self._quota.keep)
        as_tuple = None if evictions is None else tuple(evictions)
        return Space(self.free_bytes(), used, self._quota.limit_bytes, as_tuple)

    def make_room(
        self, card: ModelCard, needed: int, spare: Variant | None = None, passing: int = 0
    ) -> tuple[Tenant, ...]:
        """Evict until `needed` more bytes fit the quota; call with the card's model locked.

        Its variant `spare` never goes. `passing` bytes more are needed on the disk meanwhile. Returns what went.
        Raises DownloadError, before anything went, when the quota cannot be kept or the disk is too full.
        """
        space = self.look(needed, (card, spare) if spare else None)
        if space.evictions is None:
            have = f"{space.used_bytes / 1e6:.0f} MB are in {self.folder}, {needed / 1e6:.0f} MB more are needed"
            limit = f"models.quota_bytes is {space.quota_bytes / 1e6:.0f} MB"
            stays = "what is in use, and the last variant of a needed model, stay"
            raise DownloadError(f"{have}, {limit}, and {stays}; raise it, or remove models")
        self.require_disk(needed + passing - sum(tenant.bytes for tenant in space.evictions))
        for tenant in space.evictions:
            self._evict(tenant, card)
        return space.evictions

    def _evict(self, tenant: Tenant, locked: ModelCard) -> None:
        card, variant = self._registry.variant(tenant.model, tenant.variant)
        if card.id == locked.id:
            is_gone = self._remove_unused(card, variant)
        else:
            with locks.try_alone(self.partial(card, variant).parent) as is_alone:
                is_gone = is_alone and self._remove_unused(card, variant)
        if not is_gone:
            raise DownloadError(f"{card.id} {variant.name} was to make room and is in use now; try again")
        log.warning(
            "the longest unused variant was removed to keep models.quota_bytes",
            extra={"model": card.id, "variant": variant.name, "bytes": tenant.bytes},
        )

    def _remove_unused(self, card: ModelCard, variant: Variant) -> bool:
        with locks.unused(self.path(card, variant)) as is_unused:
            if is_unused:
                self.remove(card, (variant,))
        return is_unused

    def remove(self, card: ModelCard, variants: Iterable[Variant]) -> int:
        """Delete what belongs to these variants alone, whole, partial and set aside; the bytes freed.

        The record of a file that its card does not pin stays: a later pull must meet the same content.
        """
        return sum(self._remove(card, file) for file in _owned(card, tuple(variants)))

    def remove_files(self, card: ModelCard, doomed: Iterable[ModelFile]) -> int:
        """As `remove`, of single files."""
        return sum(self._remove(card, file) for file in doomed)

    def _remove(self, card: ModelCard, file: ModelFile) -> int:
        path, partial = self.path(card, file), self.partial(card, file)
        doomed = [path, files.quarantine(path), files.unfinished_sidecar(path), partial, files.validator(partial)]
        if file.sha256 is not None or file.source.kind not in ("hub", "url"):
            doomed.append(files.sidecar(path))
        return sum(_unlink(each) for each in doomed)

    def sweep(self, card: ModelCard, file: ModelFile) -> None:
        """Remove what an interrupted pull has left beside the whole file; call with the model locked."""
        partial = self.partial(card, file)
        for left in (partial, files.validator(partial), files.unfinished_sidecar(self.path(card, file))):
            _unlink(left)

    def _tenants(self, spare: Spare | None) -> Iterator[Tenant]:
        for card in self._registry.cards:
            for variant in card.variants:
                path = self.path(card, variant)
                if (card, variant) != spare and path.is_file() and files.recall(path):
                    size = sum(_size(self.path(card, file)) for file in _owned(card, (variant,)))
                    with locks.unused(path) as is_unused:
                        yield Tenant(card.id, variant.name, size, files.used_at(path), not is_unused)


def _owned(card: ModelCard, variants: tuple[Variant, ...]) -> list[ModelFile]:
    """The variants' files that no other variant of the card needs."""
    kept = {companion.file for other in card.variants if other not in variants for companion in other.companions}
    return [file for variant in variants for file in (variant, *variant.companions) if file.file not in kept]


def _bytes_below(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        yield from (_size(Path(place, name)) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile
        return 0


def _unlink(path: Path) -> int:
    size = _size(path)
    path.unlink(missing_ok=True)
    return size

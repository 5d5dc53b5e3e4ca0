"""The folder of KV rows: files that appear whole or not at all, one process that may change it, many that may read.

A file is written under another name, synced, and renamed; the folder is synced once for many files. So a power cut
may cost the newest files, and one that is damaged nevertheless is found out by its checksums. Blocking.
"""

import contextlib
import fcntl
import itertools
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgeagent.execution.kvstore.layout import (
    CHECKED_BYTES,
    NAME,
    TAIL_BYTES,
    Header,
    file_bytes,
    file_name,
    pack,
    parse,
    parse_tail,
)

MAX_ENTRIES = 2**16
"""Names looked at in a folder; a cache of these many files would be 1 TB of full ones."""
DRAFT_SUFFIX = ".new"
MARK = "forget"
"""A file that tells the folder's owner to forget what it has, too."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file whose header is in order."""

    header: Header
    file_bytes: int
    used_at: float
    """Seconds since the epoch."""


class KvFolder:
    """Rows on disk. Names are those of `layout.file_name`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def is_owned(self) -> bool:
        """Whether this process may change the folder."""
        return self._lock is not None

    def try_own(self) -> bool:
        """Become the one process that may change the folder, which is made; what a predecessor left half written goes.

        Raises OSError when it cannot be written to.
        """
        if self._lock is not None:
            return True
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        for draft in itertools.islice(self.path.glob(f"*.kv{DRAFT_SUFFIX}"), MAX_ENTRIES):
            with contextlib.suppress(OSError):
                draft.unlink()
        return True

    def names(self) -> list[str]:
        """Of files that may be ours: parents before what continues them, of equal beginnings the longest first."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(e.name for e in itertools.islice(entries, MAX_ENTRIES) if NAME.fullmatch(e.name))
        except OSError:
            return []

    def read(self, name: str) -> Found | None:
        """What a file says; None when it is not what its name promises. Its rows are not looked at. Raises OSError."""
        with _closing(self.open(name)) as descriptor:
            return _read(descriptor, name)

    def is_intact(self, name: str) -> bool:
        """Whether header and rows are what was written. Raises OSError when that cannot be found out."""
        with _closing(self.open(name)) as descriptor:
            found = _read(descriptor, name)
            return found is not None and _sums(descriptor, found.header.rows_bytes) == found.header.checks

    def open(self, name: str) -> int:
        """A descriptor of the file, rows at offset 0. Raises OSError."""
        return os.open(self.path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def write(self, header: Header, rows: int) -> tuple[str, int]:
        """Store the rows behind a descriptor; the file's name and bytes. `header.checks` are found here.

        Raises OSError, and leaves nothing behind then.
        """
        name = file_name(header)
        draft = self.path / f"{name}{DRAFT_SUFFIX}"
        try:
            with _closing(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)) as descriptor:
                checks = tuple(_copied(rows, header.rows_bytes, descriptor))
                _write(descriptor, memoryview(pack(replace(header, checks=checks))))
                os.fsync(descriptor)
            draft.replace(self.path / name)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        return name, file_bytes(header)

    def sync(self) -> None:
        """Make what was renamed so far survive a power cut."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with contextlib.suppress(OSError), _closing(os.open(self.path, flags)) as descriptor:
            os.fsync(descriptor)

    def remove(self, name: str) -> None:
        """Delete a file, if the folder is ours."""
        if self.is_owned:
            with contextlib.suppress(OSError):
                (self.path / name).unlink()

    def note_use(self, name: str, used_at: float) -> None:
        """Remember over restarts when a file was last used, if the folder is ours."""
        if self.is_owned:
            with contextlib.suppress(OSError):
                os.utime(self.path / name, (used_at, used_at))

    def take_mark(self) -> bool:
        """Whether another process, or another part of this one, wants all forgotten; told once, and to the owner."""
        if not self.is_owned:
            return False
        try:
            (self.path / MARK).unlink()
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def forget_all(path: Path) -> None:
    """Delete every file of rows in a folder, whoever owns it; the owner forgets what it has in memory at its next look.

    Raises OSError.
    """
    if not path.is_dir():
        return
    (path / MARK).touch(0o600)
    for name in KvFolder(path).names():
        (path / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, name: str) -> Found | None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size < TAIL_BYTES:
        return None
    tail = os.pread(descriptor, TAIL_BYTES, status.st_size - TAIL_BYTES)
    sizes = parse_tail(tail, status.st_size)
    if sizes is None:
        return None
    start = status.st_size - TAIL_BYTES - sizes.description_bytes
    header = parse(sizes, os.pread(descriptor, sizes.description_bytes, start), tail, status.st_size)
    if header is None or file_name(header) != name:
        return None
    return Found(header, status.st_size, status.st_mtime)


def _sums(descriptor: int, rows_bytes: int) -> tuple[int, ...]:
    return tuple(zlib.crc32(chunk) for chunk in _chunks(descriptor, rows_bytes))


def _copied(source: int, rows_bytes: int, target: int) -> Iterator[int]:
    """Copies the rows and tells the checksum of each chunk."""
    for chunk in _chunks(source, rows_bytes):
        _write(target, chunk)
        yield zlib.crc32(chunk)


def _chunks(descriptor: int, rows_bytes: int) -> Iterator[memoryview]:
    """The rows, CHECKED_BYTES at a time in one buffer; fewer when the file ends early."""
    buffer = memoryview(bytearray(min(CHECKED_BYTES, rows_bytes)))
    for offset in range(0, rows_bytes, CHECKED_BYTES):
        wanted = buffer[: rows_bytes - offset]
        yield wanted[: os.preadv(descriptor, [wanted], offset)]


def _write(descriptor: int, data: memoryview) -> None:
    while data:  # a disk that fills up takes a part first
        data = data[os.write(descriptor, data) :]

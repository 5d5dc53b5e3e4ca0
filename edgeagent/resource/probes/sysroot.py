"""Reads what the kernel tells in files. Nothing here raises: what cannot be read becomes a gap with its reason."""

import errno
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

MAX_FILE_BYTES = 4 * 2**20  # /proc/cpuinfo of a 512-core server stays below 1 MiB; a hostile capture is cut here
MAX_LINE_CHARS = 200
MAX_PATH_CHARS = 4096
NUMBER = re.compile(r"-?[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Sysroot:
    """A root folder. `gaps` collects facts that could not be read: name to `absent`, `denied` or what was wrong."""

    path: Path = Path("/")
    gaps: dict[str, str] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """True for the machine this process runs on."""
        return self.path == Path("/")

    def text(self, name: str) -> str | None:
        """The file's text without surrounding blanks and NULs; None when absent or unreadable (then a gap)."""
        try:
            raw = _read_file(self._locate(name))
        except OSError as error:
            self._failed(name, error)
            return None
        return raw.decode(errors="replace").strip("\0 \t\r\n")

    def line(self, name: str) -> str | None:
        """The file's first line with only its printable characters, for names; None when nothing is left."""
        text = self.text(name)
        first = text.splitlines()[0] if text else ""
        return "".join(c for c in first if c.isprintable() and c != "\ufffd").strip()[:MAX_LINE_CHARS] or None

    def lines(self, name: str) -> list[str]:
        """The file's lines; none when it is absent or unreadable (then a gap)."""
        return (self.text(name) or "").splitlines()

    def strings(self, name: str) -> list[str]:
        """A device tree property's strings, which NULs separate."""
        return [part for part in (self.text(name) or "").split("\0") if part.isprintable() and part]

    def fields(self, name: str) -> dict[str, str]:
        """The `KEY=value` lines of a file such as `uevent`."""
        pairs = (line.partition("=") for line in self.lines(name))
        return {key: value for key, separator, value in pairs if separator}

    def number(self, name: str) -> int | None:
        """The file's decimal number; None when absent, unreadable or not a number (then a gap)."""
        text = self.text(name)
        if text is None:
            return None
        if not NUMBER.fullmatch(text):
            self.note(f"/{name}", "malformed: not a number")
            return None
        return int(text)

    def names(self, folder: str) -> list[str]:
        """Sorted printable names in a folder; empty when it is absent or unreadable (then a gap)."""
        try:
            return sorted(entry.name for entry in self._locate(folder).iterdir() if entry.name.isprintable())
        except OSError as error:
            self._failed(folder, error)
            return []

    def exists(self, name: str) -> bool:
        try:
            self._locate(name).lstat()
        except OSError:
            return False
        return True

    def real(self, name: str) -> str | None:
        """The name below the root after following links, whether it exists or not; None when it leads outside."""
        try:
            return str(self._locate(name).relative_to(os.path.realpath(self.path)))
        except OSError:
            return None

    def may_use(self, device: str) -> bool:
        """Whether this user may read and write a device node."""
        try:
            return os.access(self._locate(device), os.R_OK | os.W_OK, effective_ids=True)
        except OSError:
            return False

    def note(self, fact: str, why: str) -> None:
        """Record that a fact is missing."""
        self.gaps[fact] = why

    def because(self, name: str, otherwise: str) -> str:
        """Why a file gave no fact: what was wrong when it was read, or else that it is absent."""
        return self.gaps.get(f"/{name}", otherwise)

    def _locate(self, name: str) -> Path:
        """The real path, links followed. A capture's absolute links would lead into this machine: refused."""
        if "\0" in name or len(name) > MAX_PATH_CHARS:  # names come out of files too
            raise OSError(errno.EINVAL, "not a path")
        root = os.path.realpath(self.path)
        target = os.path.realpath(f"{root}/{name}")  # Path.resolve raises RuntimeError on a loop of links
        if os.path.commonpath([root, target]) != root:
            raise OSError(errno.EXDEV, "leads outside the sysroot")
        return Path(target)

    def _failed(self, name: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        denied = isinstance(error, PermissionError)
        self.note(f"/{name}", "denied" if denied else f"unreadable: {error.strerror}")


def distinct(name: str, taken: Collection[str], place: str) -> str:
    """The name, with its place behind it when something else has that name already."""
    return f"{name}@{place}" if name in taken else name


def _read_file(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not make us wait
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return _read_all(descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int) -> bytes:
    """Everything up to the cap: files of /proc tell no size and come in pages."""
    parts: list[bytes] = []
    left = MAX_FILE_BYTES
    while left and (part := os.read(descriptor, min(left, 65536))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)

"""A file layer under SQLite whose calls fail when told to."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import apsw

BASE = "unix"
READS = frozenset({"read"})
CHANGES = frozenset({"write", "sync", "truncate", "open", "delete"})


@dataclass(slots=True)
class Faults:
    """The `at`-th call of these kinds fails, and with `lasts` every one behind it. `num_calls` counts them."""

    error: type[apsw.Error]
    kinds: frozenset[str] = CHANGES
    at: int = 0
    lasts: bool = False
    num_calls: int = 0

    def meet(self, kind: str) -> None:
        if kind not in self.kinds:
            return
        self.num_calls += 1
        if self.at and (self.num_calls == self.at or (self.lasts and self.num_calls > self.at)):
            raise self.error(f"the disk was told to fail at {kind}")

    def arm(self, at: int) -> None:
        """Count anew, and fail at that call; 0: never."""
        self.at, self.num_calls = at, 0


class _FaultyFile(apsw.VFSFile):
    def __init__(self, faults: Faults, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._faults = faults
        super().__init__(BASE, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._faults.meet("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._faults.meet("write")
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._faults.meet("truncate")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._faults.meet("sync")
        super().xSync(flags)


class _FaultyDisk(apsw.VFS):
    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        super().__init__("faulty", BASE, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        self._faults.meet("open")
        return _FaultyFile(self._faults, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._faults.meet("delete")
        super().xDelete(filename, syncdir)


@contextlib.contextmanager
def failing(faults: Faults) -> Iterator[None]:
    """Every database that is opened inside lies on this disk."""
    disk = _FaultyDisk(faults)
    try:
        yield
    finally:
        disk.unregister()

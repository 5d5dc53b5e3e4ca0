"""Two small tables that outlive power cuts: records that wait for a receipt, and records that were collected.

Every change is on the disk before its call returns (SQLite in WAL mode with `synchronous = FULL`). The calls block.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EdgeAgentError

if TYPE_CHECKING:
    import apsw

BUSY_MS = 5000
FULL = 2
MAX_WAITING = 100_000
"""Records of two kilobytes at most: 200 MB."""


class RecordsError(EdgeAgentError):
    """A file of records cannot be opened, read or written, or is full."""

    code = "records_error"


@dataclass(frozen=True, slots=True)
class Kept:
    """A record: `number` is 32 hex digits, `body` a text."""

    number: str
    body: str


class Outbox:
    """Records that no receipt has come for, in the order in which they were put."""

    def __init__(self, path: Path) -> None:
        """Raises RecordsError."""
        self._path = path
        self._db = _open(path, "CREATE TABLE IF NOT EXISTS outbox(place INTEGER PRIMARY KEY, number TEXT UNIQUE, body)")

    def put(self, record: Kept) -> None:
        """Raises RecordsError, also when MAX_WAITING wait: nothing is dropped for it."""
        with _errors(self._path):
            if self.num_waiting >= MAX_WAITING:
                raise RecordsError(f"{MAX_WAITING} records wait in {self._path}; start a peer that collects them")
            self._db.execute("INSERT INTO outbox(number, body) VALUES(?, ?)", (record.number, record.body))

    def oldest(self, limit: int) -> list[Kept]:
        with _errors(self._path):
            rows = self._db.execute("SELECT number, body FROM outbox ORDER BY place LIMIT ?", (limit,))
            return [Kept(number, body) for number, body in rows]

    def remove(self, number: str) -> None:
        with _errors(self._path):
            self._db.execute("DELETE FROM outbox WHERE number = ?", (number,))

    @property
    def num_waiting(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM outbox").get)

    def close(self) -> None:
        self._db.close()


class Collection:
    """Records of devices, each once however often it came."""

    def __init__(self, path: Path) -> None:
        """Raises RecordsError."""
        self._path = path
        self._db = _open(
            path,
            "CREATE TABLE IF NOT EXISTS collected(place INTEGER PRIMARY KEY, device TEXT, number TEXT, body,"
            " UNIQUE(device, number))",
        )

    def add(self, device: str, record: Kept) -> bool:
        """Whether it is new."""
        with _errors(self._path):
            row = (device, record.number, record.body)
            self._db.execute("INSERT OR IGNORE INTO collected(device, number, body) VALUES(?, ?, ?)", row)
            return bool(self._db.changes())

    def newest(self, limit: int) -> list[tuple[str, Kept]]:
        """With their devices, the newest first."""
        with _errors(self._path):
            rows = self._db.execute("SELECT device, number, body FROM collected ORDER BY place DESC LIMIT ?", (limit,))
            return [(device, Kept(number, body)) for device, number, body in rows]

    def close(self) -> None:
        self._db.close()


def _open(path: Path, table: str) -> "apsw.Connection":
    import apsw

    with _errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        connection = apsw.Connection(str(path))
        try:
            connection.set_busy_timeout(BUSY_MS)
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("PRAGMA synchronous = FULL")
            if connection.pragma("synchronous") != FULL or connection.pragma("journal_mode") != "wal":
                raise RecordsError(f"SQLite does not keep {path} durably here; use a local file system")
            connection.execute(table)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    import apsw

    try:
        yield
    except (apsw.Error, OSError) as error:
        raise RecordsError(f"records in {path}: {error}; see the disk, or move the file away") from None

"""Two small tables that outlive power cuts: records that wait for a receipt, and records that were collected.

Every change is on the disk before its call returns (SQLite in WAL mode with `synchronous = FULL`). The calls block.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EdgeAgentError

if TYPE_CHECKING:
    import apsw

log = logging.getLogger(__name__)

BUSY_MS = 5000
FULL = 2
DAY_S = 86_400.0
DROP_AGED = "DELETE FROM collected WHERE is_read = 1 AND at < ?"
DROP_OLDEST = """
    DELETE FROM collected WHERE place IN (SELECT place FROM collected WHERE is_read = 1 ORDER BY place LIMIT ?)
"""
DROPPED_AT_ONCE = 1000
"""Records that go together when there is no room: some two megabytes at most."""
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


class _Table:
    """One connection for all threads: each call waits for the one before it, and so does `close`."""

    def __init__(self, path: Path, table: str) -> None:
        self._path, self._lock = path, threading.RLock()
        self._db = _open(path, table)

    def close(self) -> None:
        """Later calls raise RecordsError."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator["apsw.Connection"]:
        with self._lock, _errors(self._path):
            yield self._db


class Outbox(_Table):
    """Records that no receipt has come for, in the order in which they were put."""

    def __init__(self, path: Path) -> None:
        """Raises RecordsError."""
        super().__init__(path, "CREATE TABLE IF NOT EXISTS outbox(place INTEGER PRIMARY KEY, number TEXT UNIQUE, body)")

    def put(self, record: Kept) -> None:
        """Raises RecordsError, also when MAX_WAITING wait: nothing is dropped for it."""
        with self._using() as db:
            if self.num_waiting >= MAX_WAITING:
                raise RecordsError(f"{MAX_WAITING} records wait in {self._path}; start a peer that collects them")
            db.execute("INSERT INTO outbox(number, body) VALUES(?, ?)", (record.number, record.body))

    def oldest(self, limit: int) -> list[Kept]:
        with self._using() as db:
            rows = db.execute("SELECT number, body FROM outbox ORDER BY place LIMIT ?", (limit,))
            return [Kept(number, body) for number, body in rows]

    def remove(self, number: str) -> None:
        with self._using() as db:
            db.execute("DELETE FROM outbox WHERE number = ?", (number,))

    @property
    def num_waiting(self) -> int:
        with self._using() as db:
            return int(db.execute("SELECT count(*) FROM outbox").get)


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a collection may become: `most_bytes` of pages in use; what was read may stay `days` (0: as long as there is
    room)."""

    most_bytes: int
    days: float = 0.0


KEEPING = Keeping(most_bytes=500_000_000)


@dataclass(frozen=True, slots=True)
class Census:
    """What a collection holds, and how many records that were read it has dropped since it was made."""

    num_records: int
    num_unread: int
    num_dropped: int
    bytes: int


class Collection(_Table):
    """Records of devices, each once however often it came, as long as it is here.

    What was marked as read makes room when the quota is reached, and goes when it is old. What was not read is never
    dropped: a collection that is full of it takes nothing more.
    """

    def __init__(self, path: Path, keeping: Keeping = KEEPING, now: Callable[[], float] = time.time) -> None:
        """`now` gives seconds since 1970. Raises RecordsError."""
        self._keeping, self._now = keeping, now
        super().__init__(
            path,
            "CREATE TABLE IF NOT EXISTS collected(place INTEGER PRIMARY KEY, device TEXT, number TEXT, body,"
            " UNIQUE(device, number))",
        )
        try:
            with _errors(path):
                self._extend()
        except BaseException:
            self._db.close()
            raise

    def _extend(self) -> None:
        """The columns that earlier versions did not have; what is there counts as come now."""
        columns = {name for _, name, *_ in self._db.execute("PRAGMA table_info(collected)")}
        if "at" not in columns:
            self._db.execute(f"ALTER TABLE collected ADD COLUMN at REAL NOT NULL DEFAULT {self._now():.3f}")
        if "is_read" not in columns:
            self._db.execute("ALTER TABLE collected ADD COLUMN is_read INTEGER NOT NULL DEFAULT 0")
        self._db.execute("CREATE INDEX IF NOT EXISTS collected_read ON collected(is_read, place)")
        self._db.execute("CREATE TABLE IF NOT EXISTS dropped(one INTEGER PRIMARY KEY CHECK(one = 1), num INTEGER)")
        self._db.execute("INSERT OR IGNORE INTO dropped VALUES(1, 0)")

    def add(self, device: str, record: Kept) -> bool:
        """Whether it is new. Raises RecordsError, also when all that is here was not read and there is no room."""
        with self._using() as db:
            own = (device, record.number)
            if db.execute("SELECT 1 FROM collected WHERE device = ? AND number = ?", own).fetchone():
                return False
            self._make_room()
            row = (*own, record.body, self._now())
            db.execute("INSERT OR IGNORE INTO collected(device, number, body, at) VALUES(?, ?, ?, ?)", row)
            return bool(db.changes())

    def newest(self, limit: int) -> list[tuple[str, Kept]]:
        """With their devices, the newest first."""
        with self._using() as db:
            rows = db.execute("SELECT device, number, body FROM collected ORDER BY place DESC LIMIT ?", (limit,))
            return [(device, Kept(number, body)) for device, number, body in rows]

    def unread(self, limit: int) -> dict[int, tuple[str, Kept]]:
        """By their places, with their devices, the oldest first."""
        with self._using() as db:
            query = "SELECT place, device, number, body FROM collected WHERE is_read = 0 ORDER BY place LIMIT ?"
            rows = db.execute(query, (limit,))
            return {place: (device, Kept(number, body)) for place, device, number, body in rows}

    def mark_read(self, places: Iterable[int]) -> None:
        """Those may be dropped."""
        with self._using() as db, db:
            db.executemany("UPDATE collected SET is_read = 1 WHERE place = ?", [(place,) for place in places])

    def drop_old(self) -> int:
        """How many were dropped: read, and here for longer than they may stay."""
        if not self._keeping.days:
            return 0
        with self._using():
            before = self._now() - self._keeping.days * DAY_S
            return self._drop(DROP_AGED, before, f"they are older than {self._keeping.days:g} days")

    def census(self) -> Census:
        with self._using() as db:
            total, unread, dropped = (
                int(db.execute(query).get)
                for query in (
                    "SELECT count(*) FROM collected",
                    "SELECT count(*) FROM collected WHERE is_read = 0",
                    "SELECT num FROM dropped",
                )
            )
            return Census(total, unread, dropped, self._used_bytes)

    @property
    def _used_bytes(self) -> int:
        pages, free, size = (int(self._db.pragma(name)) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def _make_room(self) -> None:
        while (used := self._used_bytes) >= self._keeping.most_bytes:
            if not self._drop(DROP_OLDEST, DROPPED_AT_ONCE, f"others need room in {self._keeping.most_bytes} bytes"):
                raise RecordsError(
                    f"{self._path} has {used} bytes of records that nobody has read; read them with"
                    " 'edgeagent fleet records --unread --acknowledge', or raise peer.collect_bytes"
                )

    def _drop(self, query: str, value: float, why: str) -> int:
        with self._db:
            self._db.execute(query, (value,))
            num = self._db.changes()
            self._db.execute("UPDATE dropped SET num = num + ?", (num,))
        if num:
            log.info("records that were read are dropped: %s", why, extra={"num": num})
        return num


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

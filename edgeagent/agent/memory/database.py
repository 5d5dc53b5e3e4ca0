"""One connection to the memory file: identity, extension and durability are checked before it is used."""

import contextlib
import importlib.util
import os
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory.schema import APPLICATION_ID, VERSION, migrate
from edgeagent.core.errors import MemoryStoreError, RequestError

if TYPE_CHECKING:
    import apsw

BUSY_MS = 5000
"""How long a statement waits for another process's write."""
AGAIN_S = 0.01
"""Opening is tried again after so long: two processes that make one file, or recover it, might wait for each other, so
SQLite lets one of them fail at once."""

PRAGMAS: dict[str, tuple[str, str | int]] = {
    "busy_timeout": (str(BUSY_MS), BUSY_MS),
    "journal_mode": ("wal", "wal"),
    "synchronous": ("full", 2),
    "secure_delete": ("on", 1),
    "wal_autocheckpoint": ("4000", 4000),
}
"""Name to the value that is set and the value that must be read back.

The journal grows to 16 MB: moving it into the file takes two syncs, which so fall to some 300 insertions.
"""

MAX_CHECKED_BYTES = 64 * 2**20
"""Files up to this size get a whole structure check at every open (measured: 30 ms for 20 MB)."""


def open_database(path: Path, dimensions: int) -> "apsw.Connection":
    """The checked and migrated database, created when absent.

    Raises MemoryStoreError, and leaves the file as it was, when it is damaged, foreign, newer than
    this program, or made for vectors of another length.
    """
    import apsw

    deadline_s = time.monotonic() + BUSY_MS / 1000
    with store_errors(path):
        while True:
            try:
                return _opened(path, dimensions)
            except apsw.BusyError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(AGAIN_S)


def _opened(path: Path, dimensions: int) -> "apsw.Connection":
    import apsw

    _create(path)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(BUSY_MS)
        _load_vectors(connection)
        _check_identity(connection, path)
        _set_pragmas(connection)
        if connection.pragma("user_version") < VERSION:
            with transaction(connection):
                migrate(connection, dimensions)
        _check_dimensions(connection, path, dimensions)
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: "apsw.Connection") -> Iterator[None]:
    """All or nothing. It takes the write lock at once: one that upgrades later cannot wait for its turn."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """SQLite's errors, and the file system's, as one clear MemoryStoreError; RequestError for what is no text."""
    import apsw

    advice = {
        apsw.NotADBError: "move the file away to start with an empty one",
        apsw.CorruptError: "restore a copy, or move the file away to start with an empty one",
        apsw.BusyError: "another process is writing; try again",
        apsw.FullError: "free some space on the disk",
        apsw.IOError: "check the disk, and the system's log",
        apsw.ReadOnlyError: "make the file and its folder writable",
        apsw.CantOpenError: "make the file and its folder readable and writable",
    }
    try:
        yield
    except apsw.Error as error:
        hint = next((text for kind, text in advice.items() if isinstance(error, kind)), "see the database's state")
        raise MemoryStoreError(f"memory database {path}: {error}; {hint}") from None
    except UnicodeEncodeError:
        raise RequestError("an id or a text is not valid Unicode (a lone surrogate); correct its encoding") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise MemoryStoreError(f"memory database {path}: {reason}; choose another path in [memory]") from None


def _create(path: Path) -> None:
    """An empty file that only its owner can read; SQLite gives its journal files the same mode.

    SQLite syncs what it writes. That the file and its folders have names at all is ours to sync.
    """
    if path.exists():
        return
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    for folder in (path.parent, *(made.parent for made in missing)):
        _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_vectors(connection: "apsw.Connection") -> None:
    """Load sqlite-vec and make it find a nearest neighbour, as recall does.

    Its Python package is not imported: that would import numpy.
    """
    found = importlib.util.find_spec("sqlite_vec")
    if found is None or found.origin is None:
        raise MemoryStoreError("the package sqlite-vec is not installed; install edgeagent with its dependencies")
    connection.enable_load_extension(True)
    connection.load_extension(str(Path(found.origin).with_name("vec0")))
    connection.enable_load_extension(False)
    wanted, near, far = (array("f", signs).tobytes() for signs in ([1] * 8, [1] * 7 + [-1], [-1] * 8))
    nearest = connection.execute(
        "SELECT name FROM (SELECT 'far' AS name, vec_quantize_binary(?1) AS bits UNION ALL "
        "SELECT 'near', vec_quantize_binary(?2)) "
        "ORDER BY vec_distance_hamming(vec_bit(bits), vec_quantize_binary(?3)) LIMIT 1",
        (far, near, wanted),
    ).get
    if nearest != "near":
        raise MemoryStoreError("sqlite-vec does not find nearest neighbours here; reinstall the package sqlite-vec")


def _check_identity(connection: "apsw.Connection", path: Path) -> None:
    """Reads only: a file that is not ours must not change."""
    application, version = connection.pragma("application_id"), connection.pragma("user_version")
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if is_empty and application == version == 0:
        return
    if application != APPLICATION_ID:
        raise MemoryStoreError(f"{path} is a database of another program; choose another path in [memory]")
    if version > VERSION:
        raise MemoryStoreError(
            f"memory database {path} has version {version}, this edgeagent knows {VERSION}; install a newer edgeagent"
        )
    if path.stat().st_size <= MAX_CHECKED_BYTES and (found := connection.execute("PRAGMA quick_check(1)").get) != "ok":
        first = str(found).splitlines()[-1]
        raise MemoryStoreError(f"memory database {path} is damaged ({first}); restore a copy, or move the file away")


def _set_pragmas(connection: "apsw.Connection") -> None:
    for name, (value, expected) in PRAGMAS.items():
        connection.execute(f"PRAGMA {name} = {value}")
        if (actual := connection.pragma(name)) != expected:
            raise MemoryStoreError(f"SQLite refuses {name} = {value} (it says {actual}); use a local file system")


def _check_dimensions(connection: "apsw.Connection", path: Path, dimensions: int) -> None:
    stored = connection.execute("SELECT value FROM facts WHERE name = 'dimensions'").get
    if stored != dimensions:
        raise MemoryStoreError(
            f"memory database {path} holds vectors of {stored} values, the embedding model makes {dimensions}; "
            "use the former model, or export the memories and import them into a new file"
        )

"""Forgetting for good: rows go, then the journal is emptied, and what SQLite left of them in the file is looked for.

The file says while this is under way, so that a process that dies in between is made up for at the next opening.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory.cues import speaker_of
from edgeagent.agent.memory.database import BUSY_MS, store_errors
from edgeagent.agent.memory.residue import page_size, unused_parts
from edgeagent.agent.memory.summaries import count_forgetting
from edgeagent.agent.memory.upkeep import summary_of
from edgeagent.agent.memory.words import stems
from edgeagent.core.errors import MemoryStoreError, NotFoundError

if TYPE_CHECKING:
    import apsw

MAX_LOCAL_BYTES = 4096
"""A page holds no more of one row; pages that overflow belong to one row, and are overwritten when it goes."""
TILE_BYTES = 8
"""Any 15 bytes of a text that stay behind are found: they hold a whole tile."""
MAX_SOUGHT = 2048
"""Words, and pieces of texts, that are looked for; for more of them the file is rewritten, which takes less time."""
READ_PAGES = 256
WIPE_MS, WIPE_ATTEMPTS = 25, 100
"""How long one attempt to wipe what was forgotten waits for other processes, twice over, and how many there are."""

_OWN = "namespace = (SELECT number FROM namespaces WHERE user = ?1)"
_GONE = f"DELETE FROM memories WHERE {_OWN} AND id = ?2 RETURNING row, text, source, digest"  # noqa: S608  (a literal)
_BEGUN = "INSERT OR REPLACE INTO facts VALUES ('unwiped', 1)"
_DONE = "DELETE FROM facts WHERE name = 'unwiped'"


@dataclass(frozen=True, slots=True)
class Gone:
    """What a removed memory may have left: bytes in pages, stems in the word index."""

    id: str
    needles: frozenset[bytes]
    stems: frozenset[str]


def remove(db: "apsw.Connection", user: str, ids: Sequence[str], *, with_summaries: bool = True) -> list[Gone]:
    """These memories, in order, then the summaries that may tell the same, and no such summary may come any more.

    Inside the caller's transaction. Raises NotFoundError, and then the caller must roll back.
    """
    db.execute(_BEGUN)
    others: list[str] = []
    if with_summaries:
        count_forgetting(db, user)
        others = [*_of_conversations(db, user, ids), *_of_sessions(db, user, ids)]
    return [_removed(db, user, id_) for id_ in dict.fromkeys((*ids, *others))]


def _of_conversations(db: "apsw.Connection", user: str, ids: Sequence[str]) -> list[str]:
    """All summaries of conversations, unless these ids are all theirs."""
    select = f"SELECT id FROM summaries JOIN memories USING (row) WHERE summaries.{_OWN}"  # noqa: S608  (a literal)
    summaries = [str(id_) for (id_,) in db.execute(select, (user,))]
    return [] if set(ids) <= set(summaries) else summaries


def _of_sessions(db: "apsw.Connection", user: str, ids: Sequence[str]) -> list[str]:
    """Summaries (`reflecting`) of the sessions of those of these memories that are turns."""
    turn = f"SELECT source FROM memories WHERE {_OWN} AND id = ?2 AND kind = 'turn' AND source <> ''"  # noqa: S608
    sources = {source for id_ in ids if (source := db.execute(turn, (user, id_)).get) is not None}
    if not sources:
        return []
    summaries = f"SELECT id, source FROM memories WHERE {_OWN} AND kind = 'summary'"  # noqa: S608  (a literal)
    told = {summary_of(source) for source in sources}
    return [str(id_) for id_, source in db.execute(summaries, (user,)) if source in told]


def _removed(db: "apsw.Connection", user: str, id_: str) -> Gone:
    beside = (
        "SELECT bits, topic, body FROM memories LEFT JOIN traces USING (row) LEFT JOIN records USING (row) WHERE id = ?"
    )
    bits, topic, body = db.execute(beside, (id_,)).fetchone() or (None, None, None)
    found = db.execute(_GONE, (user, id_)).fetchone()
    if found is None:
        raise NotFoundError(f"user '{user}' has no memory '{id_}'; list shows the ids there are")
    _, text, source, digest = found
    names = (user, source, speaker_of(text) or "")
    whole = {id_.encode(), digest, bits, *(name.encode() for name in names if len(name) >= TILE_BYTES)}
    tiles = {tile for part in (text, topic, body) if part for tile in _tiles(part.encode())}
    return Gone(id_, frozenset(whole | tiles) - {None, b""}, frozenset(stems(db, text)))


def _tiles(text: bytes) -> Iterator[bytes]:
    local = text[:MAX_LOCAL_BYTES]
    for at in range(0, max(1, len(local) - TILE_BYTES + 1), TILE_BYTES):
        yield local[at : at + TILE_BYTES]


class Wiper:
    """Sees to it that nothing is left of what was removed, now or as soon as other processes allow."""

    def __init__(self, db: "apsw.Connection", path: Path) -> None:
        self._db = db
        self._path = path
        self._due: list[Gone] = []

    def add(self, gone: Iterable[Gone]) -> None:
        self._due += gone

    def make_up(self) -> None:
        """Wipe what a process removed that did not live to wipe it, as far as it goes without waiting.

        On a full disk, or beside a process that reads, the memories can be used all the same.
        """
        import apsw

        self._db.set_busy_timeout(0)
        with contextlib.suppress(apsw.Error):
            make_up(self._db)
        self._db.set_busy_timeout(BUSY_MS)

    def work(self, attempts: int) -> str | None:
        """What keeps traces of removed memories in the file; None when there are none.

        SQLite itself does not wait for a process that moves the journal, so this does.
        """
        if not self._due:
            return None
        self._db.set_busy_timeout(WIPE_MS)
        try:
            with store_errors(self._path):
                for _ in range(attempts):
                    if wipe(self._db, self._path, self._due):
                        self._due.clear()
                        return None
                    time.sleep(WIPE_MS / 1e3)
                return "end the other process that uses the file"
        except MemoryStoreError as error:
            return str(error)
        finally:
            self._db.set_busy_timeout(BUSY_MS)


def wipe(db: "apsw.Connection", path: Path, gone: Iterable[Gone]) -> bool:
    """Leave nothing of what was removed in the file or its journal. False while another process reads or writes."""
    import apsw

    with contextlib.suppress(apsw.BusyError):
        return _emptied(db) and _cleaned(db, path, list(gone)) and _finished(db)
    return False


def _cleaned(db: "apsw.Connection", path: Path, gone: Sequence[Gone]) -> bool:
    """Always True: what is left afterwards is in the journal."""
    words = frozenset[str]().union(*(one.stems for one in gone))
    needles = frozenset[bytes]().union(*(one.needles for one in gone))
    if len(words) > MAX_SOUGHT or _in_index(db, words):
        _rewrite(db)
    elif len(needles) > MAX_SOUGHT or _in_pages(db, path, needles):
        db.execute("VACUUM")
    return True


def make_up(db: "apsw.Connection") -> None:
    """Wipe what a process removed that did not live to wipe it. Raises apsw.Error; the next opening tries again."""
    if db.execute("SELECT 1 FROM facts WHERE name = 'unwiped'").get:
        _rewrite(db)
        _finished(db)


def _rewrite(db: "apsw.Connection") -> None:
    """The word index from the texts (`optimize` leaves alone what is one piece already), then every page."""
    db.execute("INSERT INTO memory_words (memory_words) VALUES ('rebuild')")
    db.execute("VACUUM")


def _finished(db: "apsw.Connection") -> bool:
    if is_done := _emptied(db):
        db.execute(_DONE)
    return is_done


def _emptied(db: "apsw.Connection") -> bool:
    """Move the journal into the file, and cut it to nothing."""
    [(is_busy, *_)] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return not is_busy


def _in_index(db: "apsw.Connection", gone: frozenset[str]) -> bool:
    """Whether a page of the word index is still found by (the beginning of) a word that no memory holds any more."""
    words = [word.encode() for word in gone]
    keys = (bytes(key)[1:] for (key,) in db.execute("SELECT term FROM memory_words_idx WHERE term > x'30'"))
    suspects = (key for key in keys if any(word.startswith(key) for word in words))
    return any(not _is_spoken(db, key) for key in suspects)


def _is_spoken(db: "apsw.Connection", beginning: bytes) -> bool:
    low = beginning.decode(errors="ignore")
    select = "SELECT term FROM memory_vocabulary WHERE term >= ? ORDER BY term LIMIT 1"
    found = db.execute(select, (low,)).get
    return found is not None and str(found).startswith(low)


def _in_pages(db: "apsw.Connection", path: Path, needles: frozenset[bytes]) -> bool:
    """Whether an unused part of a page holds one of the needles. No other process writes meanwhile."""
    db.execute("BEGIN IMMEDIATE")
    try:
        return any(needle in part for part in _unused(path) for needle in needles)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _unused(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = page_size(file.read(100))
        file.seek(0)
        is_first = True
        while block := file.read(size * READ_PAGES):
            for at in range(0, len(block), size):
                yield from unused_parts(block[at : at + size], is_first=is_first)
                is_first = False

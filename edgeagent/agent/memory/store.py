"""The memory store: synchronous SQLite, used from one thread.

Every method sees one user's memories only. What `add` returned survives power loss; what `forget`
removed is no longer in the file.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory.database import open_database, store_errors, transaction
from edgeagent.agent.memory.ranking import fuse, match_expression
from edgeagent.core.errors import NotFoundError
from edgeagent.core.memory import MemoryHit, MemoryItem, MemoryStats, Vector

if TYPE_CHECKING:
    import apsw

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: an id may be read aloud
ID_LENGTH = 12  # 60 random bits

MIN_CANDIDATES = 50
"""Memories each ranking contributes at least; fusion gains from looking below the wanted k."""

_COLUMNS = "id, user, kind, text, source, created_at"


@dataclass(frozen=True, slots=True)
class NewMemory:
    """What `add` stores. `created_at` is Unix seconds."""

    kind: str
    text: str
    source: str
    created_at: float
    vector: Vector


class MemoryStore:
    def __init__(self, path: Path, connection: "apsw.Connection") -> None:
        self._path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path, dimensions: int) -> "MemoryStore":
        """Raises MemoryStoreError."""
        return cls(path, open_database(path, dimensions))

    def close(self) -> None:
        with store_errors(self._path):
            self._db.close()

    def add(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        """Their ids, in order; a text the user has already keeps its id. All or none are stored."""
        with store_errors(self._path), transaction(self._db):
            return [self._add(user, memory) for memory in memories]

    def ids(self, user: str, texts: Sequence[str]) -> list[str | None]:
        """The id of each text; None for one that is not stored."""
        select = "SELECT id FROM memories WHERE user = ? AND digest = ?"
        with store_errors(self._path):
            return [self._db.execute(select, (user, _digest(text))).get for text in texts]

    def _add(self, user: str, memory: NewMemory) -> str:
        inserted = self._db.execute(
            "INSERT INTO memories (id, user, kind, text, source, created_at, digest) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (user, digest) DO NOTHING RETURNING row, id",
            (_new_id(), user, memory.kind, memory.text, memory.source, memory.created_at, _digest(memory.text)),
        ).fetchone()
        if inserted is None:
            return str(self.ids(user, [memory.text])[0])
        row, id_ = inserted
        self._db.execute(
            "INSERT INTO memory_vectors (rowid, user, embedding) VALUES (?, ?, ?)", (row, user, memory.vector)
        )
        return str(id_)

    def search(self, user: str, question: str, vector: Vector, k: int) -> list[MemoryHit]:
        """At most `k` memories by fused nearness and word match, best first."""
        with store_errors(self._path):
            count = max(MIN_CANDIDATES, 4 * k)
            best = fuse([self._nearest(user, vector, count), self._matching(user, question, count)])[:k]
            return [MemoryHit(item=item, score=score) for row, score in best for item in self._items("row = ?", row)]

    def _nearest(self, user: str, vector: Vector, count: int) -> list[int]:
        select = "SELECT rowid FROM memory_vectors WHERE embedding MATCH ? AND k = ? AND user = ? ORDER BY distance"
        return [row for (row,) in self._db.execute(select, (vector, count, user))]

    def _matching(self, user: str, question: str, count: int) -> list[int]:
        select = (
            "SELECT row FROM memory_words JOIN memories ON memories.row = memory_words.rowid "
            "WHERE memory_words MATCH ? AND user = ? ORDER BY memory_words.rank LIMIT ?"
        )
        if (words := match_expression(question)) is None:
            return []
        return [row for (row,) in self._db.execute(select, (words, user, count))]

    def list(self, user: str, limit: int) -> "list[MemoryItem]":
        """The newest first."""
        with store_errors(self._path):
            return list(self._items("user = ? ORDER BY created_at DESC, row DESC LIMIT ?", user, limit))

    def page(self, user: str, after: str | None, limit: int) -> tuple[MemoryItem, ...]:
        """The oldest first, in the order they were stored, from behind the memory with id `after`."""
        behind = "row > coalesce((SELECT row FROM memories WHERE user = ?1 AND id = ?2), 0)"
        with store_errors(self._path):
            return tuple(self._items(f"user = ?1 AND {behind} ORDER BY row LIMIT ?3", user, after, limit))

    def _items(self, condition: str, *values: str | int | None) -> Iterator[MemoryItem]:
        select = f"SELECT {_COLUMNS} FROM memories WHERE {condition}"  # noqa: S608  (conditions are literals above)
        for id_, user, kind, text, source, created_at in self._db.execute(select, values):
            yield MemoryItem(id=id_, user=user, kind=kind, text=text, source=source, created_at=created_at)

    def forget(self, user: str, id_: str) -> None:
        """Remove text, words and vector from the file and its journal. Raises NotFoundError.

        A process that reads at this very moment can keep the journal's copy alive until the next checkpoint.
        """
        with store_errors(self._path):
            with transaction(self._db):
                self._db.execute("DELETE FROM memories WHERE user = ? AND id = ?", (user, id_))
                is_gone = self._db.changes() > 0
            if not is_gone:
                raise NotFoundError(f"user '{user}' has no memory '{id_}'; list shows the ids there are")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def stats(self, user: str) -> MemoryStats:
        """Counts of this user; size and versions of the whole file. `documents` counts distinct sources."""
        count = (
            "SELECT count(*), count(DISTINCT CASE WHEN kind = 'document' THEN source END), sqlite_version(), "
            "vec_version() FROM memories WHERE user = ?"
        )
        with store_errors(self._path):
            [(memories, documents, sqlite_version, vector_version)] = self._db.execute(count, (user,))
            files = (self._path, self._path.with_name(self._path.name + "-wal"))
            return MemoryStats(
                user=user,
                memories=memories,
                documents=documents,
                bytes=sum(file.stat().st_size for file in files if file.exists()),
                path=str(self._path),
                sqlite_version=sqlite_version,
                vector_version=vector_version,
            )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _new_id() -> str:
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))

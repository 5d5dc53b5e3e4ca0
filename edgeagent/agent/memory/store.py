"""The memory store: synchronous SQLite, used from one thread.

Every method sees one user's memories only. What `add` returned survives power loss; what `forget`
removed is no longer in the file.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory import measures
from edgeagent.agent.memory.database import open_database, store_errors, transaction
from edgeagent.agent.memory.measures import Measure, Unmeasured
from edgeagent.agent.memory.recall import Namespace, Question, candidates, recall, speakers
from edgeagent.agent.memory.rows import Row, insert
from edgeagent.agent.memory.scoring import Scorer, shipped
from edgeagent.core.errors import NotFoundError
from edgeagent.core.memory import MemoryHit, MemoryItem, MemoryStats, Vector

if TYPE_CHECKING:
    import apsw

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: an id may be read aloud
ID_LENGTH = 12  # 60 random bits

_ITEMS = "SELECT id, user, kind, text, source, created_at FROM memories JOIN namespaces ON number = namespace WHERE "
_NAMESPACE = "(SELECT number FROM namespaces WHERE user = ?1)"


@dataclass(frozen=True, slots=True)
class NewMemory:
    """What `add` stores. `created_at` is Unix seconds."""

    kind: str
    text: str
    source: str
    created_at: float
    vector: Vector


class MemoryStore:
    def __init__(self, path: Path, connection: "apsw.Connection", scorer: Scorer) -> None:
        self._path = path
        self._db = connection
        self._scorer = scorer

    @classmethod
    def open(cls, path: Path, dimensions: int, scorer: Scorer | None = None) -> "MemoryStore":
        """Scores by the shipped weights unless others are given. Raises MemoryStoreError."""
        return cls(path, open_database(path, dimensions), scorer or shipped())

    def close(self) -> None:
        with store_errors(self._path):
            self._db.close()

    def add(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        """Their ids, in order; a text the user has already keeps its id. All or none are stored."""
        with store_errors(self._path), transaction(self._db):
            return [self._add(user, memory) for memory in memories]

    def ids(self, user: str, texts: Sequence[str]) -> list[str | None]:
        """The id of each text; None for one that is not stored."""
        select = f"SELECT id FROM memories WHERE namespace = {_NAMESPACE} AND digest = ?2"  # noqa: S608  (a literal)
        with store_errors(self._path):
            return [self._db.execute(select, (user, _digest(text))).get for text in texts]

    def _add(self, user: str, memory: NewMemory) -> str:
        bits = self._db.execute("SELECT vec_quantize_binary(?)", (memory.vector,)).get
        digest, id_ = _digest(memory.text), _new_id()
        row = Row(id_, user, memory.kind, memory.text, memory.source, memory.created_at, digest, bits)
        return id_ if insert(self._db, row) else str(self.ids(user, [memory.text])[0])

    def speakers(self, user: str) -> "list[str]":
        """Who speaks in the user's turns (`Name: what was said`)."""
        with store_errors(self._path):
            namespace = Namespace.find(self._db, user)
            return list(speakers(self._db, namespace)) if namespace else []

    def search(self, user: str, question: Question, k: int) -> "list[MemoryHit]":
        """At most `k` memories by the learned score, best first."""
        with store_errors(self._path), self._snapshot():
            if (namespace := Namespace.find(self._db, user)) is None:
                return []
            best = recall(self._db, namespace, question, self._scorer)[:k]
            return [MemoryHit(item=self._item(row), score=score) for row, score in best]

    def _item(self, row: int) -> MemoryItem:
        return next(self._items("row = ?1", row))

    def features(self, user: str, question: Question) -> dict[str, tuple[float, ...]]:
        """What the score weighs of each candidate, by id: `features.NAMES` in order. Weights are learned on it."""
        with store_errors(self._path), self._snapshot():
            if (namespace := Namespace.find(self._db, user)) is None:
                return {}
            rows, found = candidates(self._db, namespace, question)
            ids = [self._db.execute("SELECT id FROM memories WHERE row = ?", (row,)).get for row in rows]
            return dict(zip(ids, found, strict=True))

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Every statement sees the same state, whatever other processes write."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def list(self, user: str, limit: int) -> "list[MemoryItem]":
        """The newest first."""
        with store_errors(self._path):
            return list(
                self._items(f"namespace = {_NAMESPACE} ORDER BY created_at DESC, row DESC LIMIT ?2", user, limit)
            )

    def page(self, user: str, after: str | None, limit: int) -> tuple[MemoryItem, ...]:
        """The oldest first, in the order they were stored, from behind the memory with id `after`."""
        own = f"namespace = {_NAMESPACE}"
        behind = f"row > coalesce((SELECT row FROM memories WHERE {own} AND id = ?2), 0)"  # noqa: S608  (literals)
        with store_errors(self._path):
            return tuple(self._items(f"{own} AND {behind} ORDER BY row LIMIT ?3", user, after, limit))

    def _items(self, condition: str, *values: str | int | None) -> Iterator[MemoryItem]:
        for id_, user, kind, text, source, created_at in self._db.execute(_ITEMS + condition, values):
            yield MemoryItem(id=id_, user=user, kind=kind, text=text, source=source, created_at=created_at)

    def forget(self, user: str, id_: str) -> None:
        """Remove text, words and vector from the file and its journal. Raises NotFoundError.

        A process that reads at this very moment can keep the journal's copy alive until the next checkpoint.
        """
        with store_errors(self._path):
            with transaction(self._db):
                delete = f"DELETE FROM memories WHERE namespace = {_NAMESPACE} AND id = ?2 RETURNING 1"  # noqa: S608
                is_gone = self._db.execute(delete, (user, id_)).get is not None
                if is_gone:
                    measures.forget_summaries(self._db, user)  # one may tell the same
            if not is_gone:
                raise NotFoundError(f"user '{user}' has no memory '{id_}'; list shows the ids there are")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def unmeasured(self, limit: int) -> tuple[Unmeasured, ...]:
        """Memories of all users that `keep_measures` has nothing of."""
        with store_errors(self._path):
            return measures.unmeasured(self._db, limit)

    def keep_measures(self, found: Sequence[tuple[Unmeasured, Measure]]) -> None:
        with store_errors(self._path), transaction(self._db):
            measures.keep(self._db, found)

    def measures(self, user: str, texts: Sequence[str]) -> tuple[Measure | None, ...]:
        """Of texts that the user has stored; None where there is none."""
        with store_errors(self._path):
            return measures.measures(self._db, user, [_digest(text) for text in texts])

    def summary(self, user: str, conversation: bytes) -> str | None:
        """What sums up the messages with this hash."""
        with store_errors(self._path):
            return measures.summary(self._db, user, conversation)

    def keep_summary(self, user: str, conversation: bytes, num_messages: int, text: str, created_at: float) -> None:
        with store_errors(self._path), transaction(self._db):
            measures.keep_summary(self._db, user, conversation, num_messages, text, created_at)

    def stats(self, user: str) -> MemoryStats:
        """Counts of this user; size and versions of the whole file. `documents` counts distinct sources."""
        count = (
            "SELECT count(*), count(DISTINCT CASE WHEN kind = 'document' THEN source END), sqlite_version(), "
            "vec_version() FROM memories WHERE namespace = (SELECT number FROM namespaces WHERE user = ?)"
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

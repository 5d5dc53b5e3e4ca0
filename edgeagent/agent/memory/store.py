"""The memory store: synchronous SQLite, used from one thread.

Every method sees one user's memories only. What `add` returned survives power loss; what `forget`
removed is no longer in the file.
"""

import contextlib
import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory.database import BUSY_MS, open_database, store_errors, transaction
from edgeagent.agent.memory.forgetting import Gone, remove, wipe
from edgeagent.agent.memory.recall import Namespace, Question, candidates, recall, speakers
from edgeagent.agent.memory.rows import Row, insert
from edgeagent.agent.memory.scoring import Scorer, shipped
from edgeagent.core.errors import MemoryStoreError
from edgeagent.core.memory import MemoryHit, MemoryItem, MemoryStats, Vector

if TYPE_CHECKING:
    import apsw

ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # no i, l, o, u: an id may be read aloud
ID_LENGTH = 12  # 60 random bits
_LETTERS = (8 * ID_ALPHABET).encode()  # of each byte, as `bytes.translate` takes them

WIPE_MS, WIPE_ATTEMPTS = 25, 100
"""How long one attempt to wipe what was forgotten waits for other processes, twice over, and how many there are."""

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
        self._unwiped: list[Gone] = []

    @classmethod
    def open(cls, path: Path, dimensions: int, scorer: Scorer | None = None) -> "MemoryStore":
        """Scores by the shipped weights unless others are given. Raises MemoryStoreError."""
        return cls(path, open_database(path, dimensions), scorer or shipped())

    def close(self) -> None:
        self._try_to_wipe()
        with store_errors(self._path):
            self._db.close()

    def add(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        """Their ids, in order; a text the user has already keeps its id. All or none are stored."""
        with store_errors(self._path), transaction(self._db):
            ids = self._add(user, memories)
        self._try_to_wipe()
        return ids

    def _add(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        digests = [_digest(memory.text) for memory in memories]
        ids = self._ids(user, set(digests))
        new = {d: memory for d, memory in zip(digests, memories, strict=True) if d not in ids}
        made = dict(zip(new, _new_ids(len(new)), strict=True))
        rows = [Row(made[d], m.kind, m.text, m.source, m.created_at, d, m.vector) for d, m in new.items()]
        if rows:
            insert(self._db, user, rows)
        ids |= made
        return [ids[digest] for digest in digests]

    def ids(self, user: str, texts: Sequence[str]) -> list[str | None]:
        """The id of each text; None for one that is not stored."""
        digests = [_digest(text) for text in texts]
        with store_errors(self._path):
            found = self._ids(user, digests)
            return [found.get(digest) for digest in digests]

    def _ids(self, user: str, digests: Iterable[bytes]) -> dict[bytes, str]:
        select = f"SELECT id FROM memories WHERE namespace = {_NAMESPACE} AND digest = ?2"  # noqa: S608  (a literal)
        found = ((digest, self._db.execute(select, (user, digest)).get) for digest in digests)
        return {digest: id_ for digest, id_ in found if id_ is not None}

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
            if self._db.in_transaction:  # an error of the disk may have ended it
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

    def forget(self, user: str, *ids: str) -> None:
        """Remove texts, words and vectors from the file and its journal: all of them, or none. Raises NotFoundError.

        Raises MemoryStoreError, too, when they are removed and traces are left: another process reads at this
        moment, or the disk is full. The next change, or the next opening, makes up for it.
        """
        with store_errors(self._path), transaction(self._db):
            self._unwiped += remove(self._db, user, ids)
        if (hindrance := self._wiped(WIPE_ATTEMPTS)) is not None:
            raise MemoryStoreError(
                f"{', '.join(ids)} is forgotten, but traces are left until the next change or opening; {hindrance}"
            )

    def _wiped(self, attempts: int) -> str | None:
        """What keeps traces of removed memories in the file; None when there are none.

        SQLite itself does not wait for a process that moves the journal, so this does.
        """
        self._db.set_busy_timeout(WIPE_MS)
        try:
            with store_errors(self._path):
                for _ in range(attempts):
                    if wipe(self._db, self._path, self._unwiped):
                        self._unwiped.clear()
                        return None
                    time.sleep(WIPE_MS / 1e3)
                return "end the other process that uses the file"
        except MemoryStoreError as error:
            return str(error)
        finally:
            self._db.set_busy_timeout(BUSY_MS)

    def _try_to_wipe(self) -> None:
        """Without waiting for other processes: this is on the way of something else."""
        if self._unwiped:
            self._wiped(attempts=1)

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


def _new_ids(count: int) -> list[str]:
    letters = secrets.token_bytes(ID_LENGTH * count).translate(_LETTERS).decode()
    return [letters[i : i + ID_LENGTH] for i in range(0, len(letters), ID_LENGTH)]

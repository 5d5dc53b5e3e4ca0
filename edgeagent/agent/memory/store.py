"""The memory store: synchronous SQLite, used from one thread.

Every method sees one user's memories only. What `add` returned survives power loss; what `forget`
removed is no longer in the file.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory import measures, records, upkeep
from edgeagent.agent.memory.backup import back_up
from edgeagent.agent.memory.database import open_database, store_errors, transaction
from edgeagent.agent.memory.forgetting import WIPE_ATTEMPTS, Gone, Wiper, remove
from edgeagent.agent.memory.ids import new_ids
from edgeagent.agent.memory.measures import Measure, Unmeasured
from edgeagent.agent.memory.recall import Namespace, Question, candidates, speakers, weigh
from edgeagent.agent.memory.records import digest_of
from edgeagent.agent.memory.rows import Row, insert
from edgeagent.agent.memory.scoring import Scorer, shipped
from edgeagent.agent.memory.summaries import Summaries, forgettings
from edgeagent.core.errors import EdgeAgentError, MemoryStoreError, NotFoundError, RequestError
from edgeagent.core.memory import Conversation, MemoryHit, MemoryItem, MemoryStats, Record, Vector

if TYPE_CHECKING:
    import apsw

_ITEMS = (
    "SELECT row, id, user, kind, text, source, created_at, topic, body, worth, num_judged, valid_from, valid_until, "
    "lower(hex(conversation)), num_messages FROM memories JOIN namespaces ON number = memories.namespace "
    "LEFT JOIN records USING (row) LEFT JOIN summaries USING (row) WHERE "
)
_FIELDS = ("id", "user", "kind", "text", "source", "created_at")
_RECORD = ("topic", "body", "worth", "num_judged", "valid_from", "valid_until")
_NAMESPACE = "(SELECT number FROM namespaces WHERE user = ?1)"


@dataclass(frozen=True, slots=True)
class NewMemory:
    """What `add` stores. `created_at` is Unix seconds."""

    kind: str
    text: str
    source: str
    created_at: float
    vector: Vector
    record: Record | None = None
    conversation: Conversation | None = None
    is_told_now: bool = False
    """Not imported: of records of one topic the newest, whatever the clock says."""

    @property
    def digest(self) -> bytes:
        return digest_of(self.text, self.record, self.conversation)

    def row(self, id_: str) -> Row:
        about = (self.record, self.conversation)
        told = (self.kind, self.text, self.source, self.created_at)
        return Row(id_, *told, self.digest, self.vector, *about, is_told_now=self.is_told_now)


class MemoryStore:
    """`max_memories` is what a namespace may hold."""

    def __init__(
        self, path: Path, connection: "apsw.Connection", scorer: Scorer, max_memories: int | None = None
    ) -> None:
        self._path = path
        self._db = connection
        self._scorer = scorer
        self._wiper = Wiper(connection, path)
        self.summaries = Summaries(path, connection)
        self._max_memories = max_memories

    @classmethod
    def open(
        cls, path: Path, dimensions: int, scorer: Scorer | None = None, max_memories: int | None = None
    ) -> "MemoryStore":
        """Scores by the shipped weights unless others are given. Raises MemoryStoreError."""
        store = cls(path, open_database(path, dimensions), scorer or shipped(), max_memories)
        store._wiper.make_up()
        return store

    def close(self) -> None:
        self._wiper.work(attempts=1)
        with store_errors(self._path):
            self._db.close()

    def add(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        """Their ids, in order; a text the user has already keeps its id. All or none are stored.

        A record supersedes what held on its topic before. Raises QuotaError.
        """
        [outcome] = self.add_all([(user, memories)])
        if isinstance(outcome, EdgeAgentError):
            raise outcome
        return outcome

    def add_since(self, user: str, memory: NewMemory, since: int) -> str | None:
        """As `add`; None, and nothing is stored, when the user has had something forgotten since that number of them.

        For what tells of other memories.
        """
        with store_errors(self._path), transaction(self._db):
            return self._added(user, [memory])[0] if forgettings(self._db, user) == since else None

    def add_all(self, additions: Sequence[tuple[str, Sequence[NewMemory]]]) -> list[list[str] | EdgeAgentError]:
        """As `add` for each, with one wait for the disk. Raises MemoryStoreError when none could be stored."""
        with store_errors(self._path), transaction(self._db):
            outcomes = [self._tried(user, memories) for user, memories in additions]
        self._wiper.work(attempts=1)
        return outcomes

    def _tried(self, user: str, memories: Sequence[NewMemory]) -> list[str] | EdgeAgentError:
        """Ids, or why there are none; what was begun of them is taken back."""
        self._db.execute("SAVEPOINT addition")
        try:
            with store_errors(self._path):
                ids = self._added(user, memories)
        except EdgeAgentError as error:
            if not self._db.in_transaction:  # the disk ended it for all
                raise
            self._db.execute("ROLLBACK TO addition; RELEASE addition")
            return error
        self._db.execute("RELEASE addition")
        return ids

    def _added(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        digests = [memory.digest for memory in memories]
        ids = self._ids(user, set(digests))
        new: dict[bytes, NewMemory] = {}
        for digest, memory in zip(digests, memories, strict=True):
            if digest not in ids:
                new.setdefault(digest, memory)
        has_records = any(memory.record is not None for memory in new.values())
        upkeep.check_quota(self._db, user, self._max_memories, len(new), has_records=has_records)
        rows = [memory.row(id_) for memory, id_ in zip(new.values(), new_ids(len(new)), strict=True)]
        ids |= dict(zip(new, self._insert(user, rows), strict=True))
        return [ids[digest] for digest in digests]

    def _insert(self, user: str, rows: Sequence[Row]) -> "list[str]":
        """The ids under which they are known."""
        if plain := [row for row in rows if row.record is None]:
            insert(self._db, user, plain)
        return [
            records.store(self._db, user, row, row.record, is_told_now=row.is_told_now) if row.record else row.id
            for row in rows
        ]

    def ids(self, user: str, texts: Sequence[str]) -> list[str | None]:
        """The id of each text; None for one that is not stored."""
        return self.ids_of(user, [digest_of(text) for text in texts])

    def ids_of(self, user: str, digests: Sequence[bytes]) -> "list[str | None]":
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
        return [hit for hit, _ in self.weighed(user, question, k)]

    def weighed(self, user: str, question: Question, k: int) -> "list[tuple[MemoryHit, tuple[float, ...]]]":
        """The same, with what the score weighed of each (`features.NAMES`)."""
        with store_errors(self._path), self._snapshot():
            if (namespace := Namespace.find(self._db, user)) is None:
                return []
            best = weigh(self._db, namespace, question, self._scorer)[:k]
            return [(MemoryHit(item=self._item(each.row), score=each.score), each.features) for each in best]

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

    def list(self, user: str, limit: int, kind: str | None = None) -> "list[MemoryItem]":
        """The newest first, of one kind where one is given."""
        own = f"memories.namespace = {_NAMESPACE} AND kind = coalesce(?3, kind) ORDER BY created_at DESC, row DESC"
        with store_errors(self._path):
            return list(self._items(f"{own} LIMIT ?2", user, limit, kind))

    def item(self, user: str, id_: str) -> MemoryItem:
        """Raises NotFoundError."""
        with store_errors(self._path):
            for item in self._items(f"memories.namespace = {_NAMESPACE} AND id = ?2", user, id_):
                return item
        raise NotFoundError(f"user '{user}' has no memory '{id_}'; list shows the ids there are")

    def page(self, user: str, after: int, limit: int) -> tuple[tuple[MemoryItem, ...], int]:
        """The oldest first, in the order they were stored, from behind row `after` (0: all); and the last one's row."""
        own = f"memories.namespace = {_NAMESPACE} AND row > ?2 ORDER BY row LIMIT ?3"
        with store_errors(self._path):
            found = list(self._numbered(own, user, after, limit))
            return tuple(item for _, item in found), found[-1][0] if found else after

    def _items(self, condition: str, *values: str | int | None) -> Iterator[MemoryItem]:
        return (item for _, item in self._numbered(condition, *values))

    def _numbered(self, condition: str, *values: str | int | None) -> Iterator[tuple[int, MemoryItem]]:
        """With their rows."""
        for row, *fields in self._db.execute(_ITEMS + condition, values):
            about, record, summed = fields[: len(_FIELDS)], fields[len(_FIELDS) : -2], fields[-2:]
            yield (
                row,
                MemoryItem(
                    **dict(zip(_FIELDS, about, strict=True)),
                    record=Record(**dict(zip(_RECORD, record, strict=True))) if record[0] is not None else None,
                    conversation=Conversation(key=summed[0], num_messages=summed[1]) if summed[1] else None,
                ),
            )

    def history(self, user: str, topic: str) -> tuple[MemoryItem, ...]:
        """What was and is known on a topic, the oldest first; what holds has no `valid_until`."""
        own = f"records.namespace = {_NAMESPACE} AND topic = ?2 ORDER BY valid_from, row"
        with store_errors(self._path):
            return tuple(self._items(own, user, topic))

    def judge(self, user: str, id_: str, *, is_good: bool) -> float:
        """The worth of a record, from -1 to 1, after one more judgement. Raises NotFoundError."""
        with store_errors(self._path), transaction(self._db):
            worth = records.judge(self._db, user, id_, is_good=is_good)
        if worth is None:
            raise NotFoundError(f"user '{user}' has no fact, skill or experience '{id_}'; list shows the ids there are")
        return worth

    def correct(self, user: str, id_: str, memory: NewMemory) -> tuple[str, ...]:
        """Put a memory in the place of another, whose id it gets; of the former no trace is left, as after `forget`.

        The ids of the summaries that went along. Raises RequestError when the user has that text already, and what
        `forget` raises.
        """
        with store_errors(self._path), transaction(self._db):
            gone = remove(self._db, user, [id_])
            if self._ids(user, [memory.digest]):
                raise RequestError(f"user '{user}' has this text already; forget '{id_}' instead")
            self._insert(user, [memory.row(id_)])
        self._wipe(gone, id_)
        return tuple(one.id for one in gone if one.id != id_)

    def forget(self, user: str, *ids: str, with_summaries: bool = True) -> tuple[str, ...]:
        """Remove texts, words and vectors from the file and its journal: all of them, or none. Raises NotFoundError.

        The ids of the summaries that went along because they may tell the same; without them, only room was to be
        made. Raises MemoryStoreError, too, when they are removed and traces are left: another process reads at this
        moment, or the disk is full. The next change, or the next opening, makes up for it.
        """
        with store_errors(self._path), transaction(self._db):
            gone = remove(self._db, user, ids, with_summaries=with_summaries)
        self._wipe(gone, *ids)
        return tuple(one.id for one in gone if one.id not in ids)

    def _wipe(self, gone: Sequence[Gone], *ids: str) -> None:
        self._wiper.add(gone)
        if (hindrance := self._wiper.work(WIPE_ATTEMPTS)) is not None:
            raise MemoryStoreError(
                f"{', '.join(ids)} is forgotten, but traces are left until the next change or opening; {hindrance}"
            )

    def repeated(self, user: str) -> dict[str, str]:
        """Ids of memories that say nothing that another one does not say, and the ids of those others."""
        with store_errors(self._path), self._snapshot():
            return upkeep.repeated(self._db, user)

    def faded(self, user: str, keep: int) -> tuple[str, ...]:
        """Ids of the weakest memories, so many that `keep` stay, as far as there are some that fade."""
        with store_errors(self._path), self._snapshot():
            return tuple(upkeep.faded(self._db, user, max(0, upkeep.size(self._db, user) - keep)))

    def unreflected(self, user: str, least: int) -> "Sequence[tuple[str, Sequence[str]]]":
        """Sources and texts of some sessions of at least so many turns that have no summary."""
        with store_errors(self._path), self._snapshot():
            return upkeep.unreflected(self._db, user, least)

    def back_up(self, file: Path) -> int:
        """Bytes of a copy of the whole file, of all users. Raises RequestError when it is there already."""
        with store_errors(self._path):
            return back_up(self._db, file)

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
            return measures.measures(self._db, user, [digest_of(text, None) for text in texts])

    def stats(self, user: str) -> MemoryStats:
        """Counts of this user; size and versions of the whole file. `documents` counts distinct sources."""
        count = (
            "SELECT count(*) - count(num_messages), count(num_messages), "
            "count(DISTINCT CASE WHEN kind = 'document' THEN source END), sqlite_version(), vec_version() "
            "FROM memories LEFT JOIN summaries USING (row) "
            "WHERE memories.namespace = (SELECT number FROM namespaces WHERE user = ?)"
        )
        with store_errors(self._path):
            [(memories, summaries, documents, sqlite_version, vector_version)] = self._db.execute(count, (user,))
            files = (self._path, self._path.with_name(self._path.name + "-wal"))
            return MemoryStats(
                user=user,
                memories=memories,
                summaries=summaries,
                documents=documents,
                bytes=sum(file.stat().st_size for file in files if file.exists()),
                path=str(self._path),
                sqlite_version=sqlite_version,
                vector_version=vector_version,
            )

"""How memories become rows: their namespace, speakers, cues, texts and signatures, inside the caller's transaction."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeagent.agent.memory.cues import cues_of, speaker_of
from edgeagent.agent.memory.words import stems, telling
from edgeagent.core.memory import Conversation, Record

if TYPE_CHECKING:
    import apsw

NAMESPACE_BITS = 32
"""A namespace holds 2^32 rows, and there can be 2^31 namespaces."""

_MEMORY = "INSERT INTO memories VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_WORDS = "INSERT INTO memory_words (rowid, text) VALUES (?, ?)"
_TRACE = "INSERT INTO traces VALUES (?, vec_quantize_binary(?), ?, ?, ?, ?, ?, ?)"
_RECORD = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SUMMARY = "INSERT INTO summaries VALUES (?, ?, ?, ?, ?)"
_COUNT = "UPDATE namespaces SET num_memories = num_memories + ?, num_terms = num_terms + ? WHERE number = ?"
UNKNOWN = -1
"""Is no number of forgettings."""


@dataclass(frozen=True, slots=True)
class Row:
    """A memory as it is stored; of its vector the signs are kept."""

    id: str
    kind: str
    text: str
    source: str
    created_at: float
    digest: bytes
    vector: bytes
    record: Record | None = None
    conversation: Conversation | None = None
    is_told_now: bool = False
    since: int = UNKNOWN
    """Of a summary: the number of forgettings after which all that it sums up was said."""

    @property
    def is_recalled(self) -> bool:
        return self.conversation is None and (self.record is None or self.record.valid_until is None)


def rows_of(number: int) -> tuple[int, int]:
    """First and last row that namespace `number` can have."""
    return (number << NAMESPACE_BITS) + 1, ((number + 1) << NAMESPACE_BITS) - 1


def insert(connection: "apsw.Connection", user: str, rows: Sequence[Row]) -> None:
    """Store rows whose texts are distinct and new to the user, one statement a table."""
    namespace = _number(connection, "namespaces", "user = ?", user)
    first = _next_row(connection, namespace)
    numbered = list(enumerate(rows, start=first))
    connection.executemany(
        _MEMORY, ((n, r.id, namespace, r.kind, r.text, r.source, r.created_at, r.digest) for n, r in numbered)
    )
    connection.executemany(_WORDS, ((n, r.text) for n, r in numbered))
    connection.executemany(_RECORD, (_record(n, namespace, r.record) for n, r in numbered if r.record))
    connection.executemany(
        _SUMMARY,
        ((n, namespace, bytes.fromhex(c.key), c.num_messages, r.since) for n, r in numbered if (c := r.conversation)),
    )
    _trace(connection, namespace, [(n, r) for n, r in numbered if r.is_recalled])


def _record(number: int, namespace: int, record: Record) -> tuple[int | float | str | None, ...]:
    held = (record.worth, record.num_judged, record.valid_from, record.valid_until)
    return (number, namespace, record.topic, record.body, *held)


def _trace(connection: "apsw.Connection", namespace: int, numbered: Sequence[tuple[int, Row]]) -> None:
    """What recall weighs of each, and their count."""
    speakers = _speakers(connection, namespace, [row for _, row in numbered])
    terms = [len(telling(stems(connection, row.text))) for _, row in numbered]
    connection.executemany(
        _TRACE,
        (
            (n, r.vector, namespace, _session(r), speaker, num_terms, cues_of(r.text), r.created_at)
            for (n, r), speaker, num_terms in zip(numbered, speakers, terms, strict=True)
        ),
    )
    connection.execute(_COUNT, (len(numbered), sum(terms), namespace))


def _next_row(connection: "apsw.Connection", namespace: int) -> int:
    first, last = rows_of(namespace)
    select = "SELECT coalesce(max(row), ? - 1) + 1 FROM memories WHERE row BETWEEN ? AND ?"
    return int(connection.execute(select, (first, first, last)).get)


def _session(row: Row) -> int | None:
    """Memories of one are neighbours; notes and records stand alone."""
    return None if row.kind == "note" or row.record else zlib.crc32(f"{row.kind} {row.source}".encode())


def _speakers(connection: "apsw.Connection", namespace: int, rows: Sequence[Row]) -> list[int | None]:
    """The number of who speaks in each row; None where nobody is named."""
    names = [speaker_of(row.text) if row.kind == "turn" else None for row in rows]
    numbers: dict[str | None, int | None] = {None: None}
    for name in names:
        if name is not None and name not in numbers:
            numbers[name] = _number(connection, "speakers", "namespace = ? AND name = ?", namespace, name)
    return [numbers[name] for name in names]


def _number(connection: "apsw.Connection", table: str, condition: str, *values: str | int) -> int:
    """The number of the row of `table` that fits, made when there is none. Columns come in the condition's order."""
    select = f"SELECT number FROM {table} WHERE {condition}"  # noqa: S608  (literals above)
    if (found := connection.execute(select, values).get) is None:
        columns = condition.replace(" = ?", "").replace(" AND ", ", ")
        marks = ", ".join("?" for _ in values)
        make = f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING number"  # noqa: S608  (as above)
        found = connection.execute(make, values).get
    return int(found)

"""How one memory becomes rows: its namespace, speaker, cues, text and signature, inside the caller's transaction."""

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeagent.agent.memory.cues import cues_of, speaker_of
from edgeagent.agent.memory.words import stems, telling

if TYPE_CHECKING:
    import apsw

NAMESPACE_BITS = 32
"""A namespace holds 2^32 rows, and there can be 2^31 namespaces."""


_INSERT = """
INSERT INTO memories SELECT coalesce(max(row), ?1 - 1) + 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9
FROM memories WHERE row BETWEEN ?1 AND ?2 ON CONFLICT (namespace, digest) DO NOTHING RETURNING row
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A memory as it is stored. `bits` are the signs of its vector's values, eight a byte."""

    id: str
    user: str
    kind: str
    text: str
    source: str
    created_at: float
    digest: bytes
    bits: bytes


def rows_of(number: int) -> tuple[int, int]:
    """First and last row that namespace `number` can have."""
    return (number << NAMESPACE_BITS) + 1, ((number + 1) << NAMESPACE_BITS) - 1


def insert(connection: "apsw.Connection", row: Row) -> bool:
    """Whether it was stored; False for a text its namespace has already."""
    namespace = _number(connection, "namespaces", "user = ?", row.user)
    made = (row.id, namespace, row.kind, row.text, row.source, row.created_at, row.digest)
    added = connection.execute(_INSERT, (*rows_of(namespace), *made)).get
    if added is not None:
        name = speaker_of(row.text) if row.kind == "turn" else None
        speaker = _number(connection, "speakers", "namespace = ? AND name = ?", namespace, name) if name else None
        session = None if row.kind == "note" else zlib.crc32(f"{row.kind} {row.source}".encode())
        num_terms = len(telling(stems(connection, row.text)))
        trace = (added, row.bits, namespace, session, speaker, num_terms, cues_of(row.text), row.created_at)
        connection.execute("INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?)", trace)
    return added is not None


def _number(connection: "apsw.Connection", table: str, condition: str, *values: str | int) -> int:
    """The number of the row of `table` that fits, made when there is none. Columns come in the condition's order."""
    select = f"SELECT number FROM {table} WHERE {condition}"  # noqa: S608  (literals above)
    if (found := connection.execute(select, values).get) is None:
        columns = condition.replace(" = ?", "").replace(" AND ", ", ")
        marks = ", ".join("?" for _ in values)
        make = f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING number"  # noqa: S608  (as above)
        found = connection.execute(make, values).get
    return int(found)

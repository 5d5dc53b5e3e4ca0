"""What reduction needs of stored texts, kept beside them: tokens and surprisals.

Measured once, by the local model, when there is time; a later reduction only reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeagent.model.surprisal import packed, unpacked

if TYPE_CHECKING:
    import apsw

STEP = """
-- One byte a word of the memory's text, in eighths of a bit; `model` is a checksum of the id whose tokens are counted.
CREATE TABLE measures (
    row        INTEGER PRIMARY KEY,
    model      INTEGER NOT NULL,
    num_tokens INTEGER NOT NULL,
    surprisals BLOB NOT NULL
) STRICT;
CREATE TRIGGER measure_forgotten AFTER DELETE ON memories BEGIN
    DELETE FROM measures WHERE row = old.row;
END;
CREATE TRIGGER measure_outdated AFTER UPDATE OF text ON memories BEGIN
    DELETE FROM measures WHERE row = old.row;
END;

-- `conversation` is a hash of its first `num_messages` messages, which `text` sums up.
CREATE TABLE summaries (
    user         TEXT NOT NULL,
    conversation BLOB NOT NULL,
    num_messages INTEGER NOT NULL,
    text         TEXT NOT NULL,
    created_at   REAL NOT NULL,
    PRIMARY KEY (user, conversation)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """Of one stored text: bits of each of its words, and its tokens by the model with this checksum."""

    bits: tuple[float, ...]
    num_tokens: int
    model: int


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A memory without a measure: its row, and what is to be measured."""

    row: int
    text: str


# Documents that come with requests consist of these kinds; of others no reduction would read a measure.
_UNMEASURED = """
SELECT row, text FROM memories JOIN (
    SELECT row, row_number() OVER (PARTITION BY namespace ORDER BY row DESC) AS place FROM memories
    WHERE kind IN ('document', 'turn')
    AND NOT EXISTS (SELECT 1 FROM measures WHERE measures.row = memories.row)
    ORDER BY place, row DESC LIMIT ?
) USING (row) ORDER BY place, row DESC
"""


def unmeasured(db: "apsw.Connection", limit: int) -> tuple[Unmeasured, ...]:
    """Of all users in turns, of each what was stored last: by rows, as a clock may have jumped back."""
    return tuple(Unmeasured(int(str(row)), str(text)) for row, text in db.execute(_UNMEASURED, (limit,)))


def keep(db: "apsw.Connection", found: Sequence[tuple[Unmeasured, Measure]]) -> None:
    """Of texts that were forgotten or corrected meanwhile nothing is kept."""
    insert = "INSERT OR REPLACE INTO measures SELECT row, ?, ?, ? FROM memories WHERE row = ? AND text = ?"
    rows = [(m.model, m.num_tokens, packed(m.bits), one.row, one.text) for one, m in found]
    db.executemany(insert, rows)


def measures(db: "apsw.Connection", user: str, digests: Sequence[bytes]) -> tuple[Measure | None, ...]:
    """By the texts' digests; None for a text that the user has not stored, or that was not measured."""
    select = (
        "SELECT surprisals, num_tokens, model FROM measures JOIN memories USING (row) "
        "WHERE namespace = (SELECT number FROM namespaces WHERE user = ?) AND digest = ?"
    )
    rows = [db.execute(select, (user, digest)).fetchone() for digest in digests]
    return tuple(Measure(unpacked(row[0]), row[1], row[2]) if row else None for row in rows)

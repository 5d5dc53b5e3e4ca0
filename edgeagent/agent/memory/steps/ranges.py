"""To version 2: each namespace a range of rows, of vectors their signs, and what recall weighs apart from the text."""

import zlib
from typing import TYPE_CHECKING, Any

from edgeagent.agent.memory.cues import cues_of, speaker_of
from edgeagent.agent.memory.words import stems, telling

if TYPE_CHECKING:
    import apsw

SQL = """
DROP TRIGGER memory_added;
DROP TRIGGER memory_forgotten;
DROP INDEX memories_by_time;
DROP TABLE memory_words;
ALTER TABLE memories RENAME TO former;

CREATE TABLE namespaces (
    number       INTEGER PRIMARY KEY,
    user         TEXT NOT NULL UNIQUE,
    num_memories INTEGER NOT NULL DEFAULT 0,
    num_terms    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE speakers (
    number    INTEGER PRIMARY KEY,
    namespace INTEGER NOT NULL,
    name      TEXT NOT NULL,
    num_turns INTEGER NOT NULL DEFAULT 0,
    UNIQUE (namespace, name)
) STRICT;

-- Rows of namespace n are (n << 32) + 1, + 2, ...: a namespace is a range of every index.
CREATE TABLE memories (
    row        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    namespace  INTEGER NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('note', 'document', 'turn')),
    text       TEXT NOT NULL,
    source     TEXT NOT NULL,
    created_at REAL NOT NULL,
    digest     BLOB NOT NULL,
    UNIQUE (namespace, digest)
) STRICT;
CREATE INDEX memories_by_time ON memories (namespace, created_at);

-- What recall weighs of a memory, apart from its text, so that a scan reads little else. `bits` are the signs of the
-- vector's values (48 bytes of 384), `session` is a checksum of kind and source: neighbours share it. Notes have none.
CREATE TABLE traces (
    row        INTEGER PRIMARY KEY,
    bits       BLOB NOT NULL CHECK (length(bits) * 8 = {dimensions}),
    namespace  INTEGER NOT NULL,
    session    INTEGER,
    speaker    INTEGER,
    num_terms  INTEGER NOT NULL,
    cues       INTEGER NOT NULL,
    created_at REAL NOT NULL
) STRICT;

-- Which rows hold a word, and no more: how often and where in a short text does not pay for its bytes.
CREATE VIRTUAL TABLE memory_words USING fts5 (
    text, content = 'memories', content_rowid = 'row', tokenize = 'porter unicode61', detail = none
);
INSERT INTO memory_words (memory_words, rank) VALUES ('secure-delete', 1);
CREATE VIRTUAL TABLE memory_vocabulary USING fts5vocab (memory_words, row);

CREATE TRIGGER memory_added AFTER INSERT ON memories BEGIN
    INSERT INTO memory_words (rowid, text) VALUES (new.row, new.text);
END;
CREATE TRIGGER memory_forgotten AFTER DELETE ON memories BEGIN
    INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', old.row, old.text);
    DELETE FROM traces WHERE row = old.row;
END;
CREATE TRIGGER trace_added AFTER INSERT ON traces BEGIN
    UPDATE namespaces SET num_memories = num_memories + 1, num_terms = num_terms + new.num_terms
        WHERE number = new.namespace;
    UPDATE speakers SET num_turns = num_turns + 1 WHERE number = new.speaker;
END;
CREATE TRIGGER trace_forgotten AFTER DELETE ON traces BEGIN
    UPDATE speakers SET num_turns = num_turns - 1 WHERE number = old.speaker;
    DELETE FROM speakers WHERE number = old.speaker AND num_turns = 0;
    UPDATE namespaces SET num_memories = num_memories - 1, num_terms = num_terms - old.num_terms
        WHERE number = old.namespace;
    DELETE FROM namespaces WHERE number = old.namespace AND num_memories = 0;
END;
"""

_FORMER = """
SELECT former.row, former.user, id, kind, text, source, created_at, digest, vec_quantize_binary(embedding)
FROM former JOIN memory_vectors ON memory_vectors.rowid = former.row
WHERE former.row > ? ORDER BY former.row LIMIT 1000
"""
_MEMORY = """
INSERT INTO memories SELECT coalesce(max(row), ?1 << 32) + 1, ?2, ?1, ?3, ?4, ?5, ?6, ?7
FROM memories WHERE row BETWEEN (?1 << 32) + 1 AND ((?1 + 1) << 32) - 1 RETURNING row
"""


def move(connection: "apsw.Connection") -> None:
    """Renumber what version 1 stored, user by user, and keep the signs of its vectors."""
    last: Any = -1
    while page := connection.execute(_FORMER, (last,)).fetchall():
        for row in page:
            values: list[Any] = list(row)
            last = values.pop(0)
            _insert(connection, *values)
    connection.execute("DROP TABLE former; DROP TABLE memory_vectors")


def _insert(
    db: "apsw.Connection", user: str, id_: str, kind: str, text: str, source: str, at: float, digest: bytes, bits: bytes
) -> None:
    """As version 2 stored a memory; its triggers did the counting."""
    db.execute("INSERT INTO namespaces (user) VALUES (?) ON CONFLICT DO NOTHING", (user,))
    namespace = db.execute("SELECT number FROM namespaces WHERE user = ?", (user,)).get
    added = db.execute(_MEMORY, (namespace, id_, kind, text, source, at, digest)).get
    speaker = None
    if kind == "turn" and (name := speaker_of(text)):
        db.execute("INSERT INTO speakers (namespace, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (namespace, name))
        speaker = db.execute("SELECT number FROM speakers WHERE namespace = ? AND name = ?", (namespace, name)).get
    session = None if kind == "note" else zlib.crc32(f"{kind} {source}".encode())
    num_terms = len(telling(stems(db, text)))
    trace = (added, bits, namespace, session, speaker, num_terms, cues_of(text), at)
    db.execute("INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?)", trace)

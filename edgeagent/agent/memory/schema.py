"""The shape of a memory database and the steps that lead to it, counted by `PRAGMA user_version`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgeagent.agent.memory import measures
from edgeagent.agent.memory.rows import Row, insert

if TYPE_CHECKING:
    import apsw

APPLICATION_ID = 0x65644167
"""`edAg` in the file's header: tells our files from other programs' (`PRAGMA application_id`)."""

_FIRST = """
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE memories (
    row        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    user       TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('note', 'document', 'turn')),
    text       TEXT NOT NULL,
    source     TEXT NOT NULL,
    created_at REAL NOT NULL,
    digest     BLOB NOT NULL,
    UNIQUE (user, digest)
) STRICT;
CREATE INDEX memories_by_time ON memories (user, created_at, row);

CREATE VIRTUAL TABLE memory_words USING fts5 (
    text, content = 'memories', content_rowid = 'row', tokenize = 'porter unicode61'
);
INSERT INTO memory_words (memory_words, rank) VALUES ('secure-delete', 1);
CREATE TRIGGER memory_added AFTER INSERT ON memories BEGIN
    INSERT INTO memory_words (rowid, text) VALUES (new.row, new.text);
END;
CREATE TRIGGER memory_forgotten AFTER DELETE ON memories BEGIN
    INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', old.row, old.text);
    DELETE FROM memory_vectors WHERE rowid = old.row;
END;

-- A chunk holds vectors of one user: 256 of them take 384 KiB, and larger chunks were no faster.
CREATE VIRTUAL TABLE memory_vectors USING vec0 (
    user TEXT PARTITION KEY, embedding FLOAT[{dimensions}] DISTANCE_METRIC=cosine, chunk_size=256
);
INSERT INTO facts VALUES ('dimensions', {dimensions});
"""

_RANGES = """
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


def _to_ranges(connection: "apsw.Connection") -> None:
    """Renumber what version 1 stored, user by user, and keep the signs of its vectors."""
    select = (
        "SELECT former.row, id, former.user, kind, text, source, created_at, digest, vec_quantize_binary(embedding) "
        "FROM former JOIN memory_vectors ON memory_vectors.rowid = former.row WHERE former.row > ? "
        "ORDER BY former.row LIMIT 1000"
    )
    last: Any = -1
    while page := connection.execute(select, (last,)).fetchall():
        for row in page:
            values: list[Any] = list(row)
            last = values.pop(0)
            insert(connection, Row(*values))
    connection.execute("DROP TABLE former; DROP TABLE memory_vectors")


Step = tuple[str, Callable[["apsw.Connection"], None]]


def _nothing_more(_: "apsw.Connection") -> None:
    """The SQL was all."""


MIGRATIONS: tuple[Step, ...] = ((_FIRST, _nothing_more), (_RANGES, _to_ranges), (measures.STEP, _nothing_more))
"""Step `n` leads from `user_version` n to n + 1. Steps are only ever added."""

VERSION = len(MIGRATIONS)


def migrate(connection: "apsw.Connection", dimensions: int) -> None:
    """Run the missing steps inside the caller's write transaction: all or none, and by one process only."""
    present: int = connection.pragma("user_version")
    for sql, move in MIGRATIONS[present:]:
        connection.execute(sql.replace("{dimensions}", str(dimensions)))
        move(connection)
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", VERSION)

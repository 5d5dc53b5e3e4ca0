"""To version 1: texts, their words, their vectors."""

SQL = """
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

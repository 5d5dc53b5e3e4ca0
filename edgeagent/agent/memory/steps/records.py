"""To version 4: memories of more kinds, and what facts, skills and experiences carry beside their text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apsw

SQL = """
-- Of facts, skills and experiences. Memories of one topic (`records.topic_of`) supersede each other: the one that holds
-- has no `valid_until` and is the only one with a trace, so that recall finds no other. `worth` is -1 to 1.
CREATE TABLE records (
    row         INTEGER PRIMARY KEY,
    namespace   INTEGER NOT NULL,
    topic       TEXT NOT NULL,
    body        TEXT NOT NULL,
    worth       REAL NOT NULL,
    num_judged  INTEGER NOT NULL,
    valid_from  REAL NOT NULL,
    valid_until REAL
) STRICT;
CREATE INDEX records_by_topic ON records (namespace, topic, valid_from);

DROP TRIGGER memory_forgotten;
DROP TRIGGER trace_forgotten;
CREATE TRIGGER memory_forgotten AFTER DELETE ON memories BEGIN
    INSERT INTO memory_words (memory_words, rowid, text) VALUES ('delete', old.row, old.text);
    DELETE FROM traces WHERE row = old.row;
    DELETE FROM records WHERE row = old.row;
    DELETE FROM namespaces WHERE number = old.namespace AND NOT EXISTS (
        SELECT 1 FROM memories WHERE namespace = old.namespace);
END;
-- A namespace can hold memories that are superseded and no other: its number must not be given away.
CREATE TRIGGER trace_forgotten AFTER DELETE ON traces BEGIN
    DELETE FROM speakers WHERE number = old.speaker AND NOT EXISTS (
        SELECT 1 FROM traces WHERE row BETWEEN (old.namespace << 32) + 1 AND ((old.namespace + 1) << 32) - 1
        AND speaker = old.speaker);
    UPDATE namespaces SET num_memories = num_memories - 1, num_terms = num_terms - old.num_terms
        WHERE number = old.namespace;
END;
"""

_KINDS = " CHECK (kind IN ('note', 'document', 'turn'))"


def move(connection: "apsw.Connection") -> None:
    """Drop the list of kinds from the table's text: a constraint that goes needs no new table.

    The way is that of sqlite.org/lang_altertable.html, section 7.
    """
    connection.execute("PRAGMA writable_schema = ON")
    edit = "UPDATE sqlite_schema SET sql = replace(sql, ?, '') WHERE type = 'table' AND name = 'memories'"
    connection.execute(edit, (_KINDS,))
    connection.execute("PRAGMA writable_schema = RESET")

"""To version 6: summaries of conversations are memories, and each user's forgettings are counted."""

SQL = """
-- Summaries that were made before are made again when they are missed.
DROP TABLE summaries;

-- Of a memory that sums up the first `num_messages` messages of a conversation (`conversation` is their hash). It has
-- no trace: recall does not find it. `since` is the number of forgettings after which all of these messages were said.
CREATE TABLE summaries (
    row          INTEGER PRIMARY KEY,
    namespace    INTEGER NOT NULL,
    conversation BLOB NOT NULL,
    num_messages INTEGER NOT NULL,
    since        INTEGER NOT NULL,
    UNIQUE (namespace, conversation)
) STRICT;
CREATE TRIGGER summary_forgotten AFTER DELETE ON memories BEGIN
    DELETE FROM summaries WHERE row = old.row;
END;

-- How often a user has had something forgotten. Of the user a hash: the count outlives the last memory.
CREATE TABLE forgettings (
    user   BLOB PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

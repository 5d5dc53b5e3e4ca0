"""To version 3: memories are counted by the batch, no longer by triggers, one by one."""

SQL = """
DROP TRIGGER memory_added;
DROP TRIGGER trace_added;
DROP TRIGGER trace_forgotten;
ALTER TABLE speakers DROP COLUMN num_turns;

-- What comes is stored and counted by the batch (`rows.insert`); what goes, goes one by one.
CREATE TRIGGER trace_forgotten AFTER DELETE ON traces BEGIN
    DELETE FROM speakers WHERE number = old.speaker AND NOT EXISTS (
        SELECT 1 FROM traces WHERE row BETWEEN (old.namespace << 32) + 1 AND ((old.namespace + 1) << 32) - 1
        AND speaker = old.speaker);
    UPDATE namespaces SET num_memories = num_memories - 1, num_terms = num_terms - old.num_terms
        WHERE number = old.namespace;
    DELETE FROM namespaces WHERE number = old.namespace AND num_memories = 0;
END;
"""

"""Facts, skills and experiences: until when they hold, what superseded them, and what they proved to be worth."""

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeagent.agent.memory.rows import Row, insert
from edgeagent.core.memory import Conversation, Record

if TYPE_CHECKING:
    import apsw

LEAST_STEP = 0.1
"""A judgement moves the worth by at least a tenth of the way: what worked once may stop to."""


def topic_of(kind: str, *names: str) -> str:
    """What memories that contradict each other share: kind and names, without regard to case and spaces."""
    return "\x1f".join(" ".join(name.casefold().split()) for name in (kind, *names))


def digest_of(text: str, record: Record | None = None, conversation: Conversation | None = None) -> bytes:
    """What a namespace has only once: a text, a superseded one with the end of its time, a conversation's summary."""
    until = record.valid_until if record else None
    known_by = text if until is None else f"{text}\0{until}"
    return hashlib.sha256((f"\0{conversation.key}" if conversation else known_by).encode()).digest()


def store(db: "apsw.Connection", user: str, row: Row, record: Record, *, is_told_now: bool) -> str:
    """The id under which it is known. It supersedes what holds on its topic, or is history when it is the older.

    What is told now is never the older: then the clock has jumped back, and it holds from when the other one did.
    """
    present = _holding(db, user, record.topic) if record.valid_until is None else None
    if present is not None and is_told_now:
        record = record.model_copy(update={"valid_from": max(record.valid_from, present[1])})
    if present is not None and present[1] > record.valid_from:
        record = record.model_copy(update={"valid_until": present[1]})
        row = replace(row, digest=digest_of(row.text, record))
        if (known := _id_of(db, user, row.digest)) is not None:
            return known
    insert(db, user, [replace(row, record=record)])
    if present is not None and record.valid_until is None:
        _supersede(db, user, present[0], present[2], record.valid_from)
    return row.id


def _holding(db: "apsw.Connection", user: str, topic: str) -> tuple[int, float, str] | None:
    """Row, time and text of what holds on a topic."""
    select = (
        "SELECT records.row, valid_from, text FROM records JOIN memories USING (row) "
        "WHERE records.namespace = (SELECT number FROM namespaces WHERE user = ?) AND topic = ? AND valid_until IS NULL"
    )
    found: tuple[int, float, str] | None = db.execute(select, (user, topic)).fetchone()
    return found


def _id_of(db: "apsw.Connection", user: str, digest: bytes) -> str | None:
    select = "SELECT id FROM memories WHERE namespace = (SELECT number FROM namespaces WHERE user = ?) AND digest = ?"
    found: str | None = db.execute(select, (user, digest)).get
    return found


def _supersede(db: "apsw.Connection", user: str, row: int, text: str, until: float) -> None:
    """What held stays as history; without a trace recall does not find it. Once is enough, when it ended twice then."""
    topic, body = db.execute(
        "UPDATE records SET valid_until = ?2 WHERE row = ?1 RETURNING topic, body", (row, until)
    ).get
    digest = digest_of(text, Record(topic=topic, body=body, valid_from=until, valid_until=until))
    if _id_of(db, user, digest) is not None:
        db.execute("DELETE FROM memories WHERE row = ?", (row,))
        return
    db.execute("DELETE FROM traces WHERE row = ?", (row,))
    db.execute("UPDATE memories SET digest = ? WHERE row = ?", (digest, row))


def judge(db: "apsw.Connection", user: str, id_: str, *, is_good: bool) -> float | None:
    """The worth after one more judgement; None when the user has no such record."""
    update = (
        "UPDATE records SET num_judged = num_judged + 1, "
        "worth = worth + (?3 - worth) * max(1.0 / (num_judged + 1), ?4) "
        "WHERE row = (SELECT row FROM memories WHERE namespace = (SELECT number FROM namespaces WHERE user = ?1) "
        "AND id = ?2) RETURNING worth"
    )
    worth: float | None = db.execute(update, (user, id_, 1.0 if is_good else -1.0, LEAST_STEP)).get
    return worth

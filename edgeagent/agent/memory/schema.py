"""The shape of a memory database and the steps that lead to it, counted by `PRAGMA user_version`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeagent.agent.memory import measures
from edgeagent.agent.memory.steps import batches, first, ranges, records, summaries

if TYPE_CHECKING:
    import apsw

APPLICATION_ID = 0x65644167
"""`edAg` in the file's header: tells our files from other programs' (`PRAGMA application_id`)."""

Step = tuple[str, Callable[["apsw.Connection"], None]]


def _nothing_more(_: "apsw.Connection") -> None:
    """The SQL was all."""


MIGRATIONS: tuple[Step, ...] = (
    (first.SQL, _nothing_more),
    (ranges.SQL, ranges.move),
    (batches.SQL, _nothing_more),
    (records.SQL, records.move),
    (measures.STEP, _nothing_more),
    (summaries.SQL, _nothing_more),
)
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

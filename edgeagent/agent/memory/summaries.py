"""Summaries of conversations' old turns (reduction L4), which are memories that recall does not find.

A summary tells what was said, and so what was forgotten may come back with one. So forgettings are counted, and a
summary is kept only when all that it sums up was said after the last one. Forgetting a memory takes all summaries of
its user along: they are made again when they are missed, as far as that is allowed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory.database import store_errors, transaction
from edgeagent.agent.memory.ids import new_ids
from edgeagent.agent.memory.records import digest_of
from edgeagent.agent.memory.rows import Row, insert
from edgeagent.core.memory import Conversation

if TYPE_CHECKING:
    import apsw

KIND, SOURCE = "summary", "conversation"
MAX_SUMMARIES = 256
"""A user: those that were made last stay, by their rows. A clock may have jumped back."""

_OWN = "namespace = (SELECT number FROM namespaces WHERE user = ?1)"
_FIND = f"SELECT text FROM summaries JOIN memories USING (row) WHERE summaries.{_OWN} AND conversation = ?2"  # noqa: S608
_OLDEST = (
    f"DELETE FROM memories WHERE row IN (SELECT row FROM summaries WHERE {_OWN} "  # noqa: S608  (literals)
    "ORDER BY row DESC LIMIT -1 OFFSET ?2)"
)


@dataclass(frozen=True, slots=True)
class Summaries:
    """Of the store with this connection. Raises MemoryStoreError."""

    path: Path
    db: "apsw.Connection"

    def find(self, user: str, conversation: bytes) -> str | None:
        """What sums up the messages with this hash."""
        with store_errors(self.path):
            found = self.db.execute(_FIND, (user, conversation)).get
        return None if found is None else str(found)

    def forgettings(self, user: str) -> int:
        """How often the user has had something forgotten."""
        with store_errors(self.path):
            return forgettings(self.db, user)

    def since(self, user: str, seen: int | None, conversations: Sequence[bytes]) -> int | None:
        """The number of forgettings, when a conversation may be summed up: nothing was forgotten since it was said.

        `seen`: their number when it began (None: nobody knows). What an earlier summary of its beginning
        (`conversations`: the hashes there may be one of) knows serves as well.
        """
        with store_errors(self.path):
            number = forgettings(self.db, user)
            known = f"SELECT since FROM summaries WHERE {_OWN} AND conversation = ?2"  # noqa: S608  (a literal)
            earlier = (self.db.execute(known, (user, conversation)).get for conversation in conversations)
            return number if number in (0, seen) or number in earlier else None

    def keep(self, user: str, about: Conversation, text: str, created_at: float, since: int) -> str | None:
        """Its id; None when something was forgotten meanwhile, or these messages have a summary."""
        [id_] = new_ids(1)
        digest = digest_of(text, None, about)
        row = Row(id_, KIND, text, SOURCE, created_at, digest, b"", conversation=about, since=since)
        with store_errors(self.path), transaction(self.db):
            if forgettings(self.db, user) != since or self.find(user, bytes.fromhex(about.key)) is not None:
                return None
            insert(self.db, user, [row])
            self.db.execute(_OLDEST, (user, MAX_SUMMARIES))
        return id_


def forgettings(db: "apsw.Connection", user: str) -> int:
    return int(db.execute("SELECT number FROM forgettings WHERE user = ?", (_hashed(user),)).get or 0)


def count_forgetting(db: "apsw.Connection", user: str) -> None:
    """Inside the caller's transaction."""
    count = "INSERT INTO forgettings VALUES (?, 1) ON CONFLICT DO UPDATE SET number = number + 1"
    db.execute(count, (_hashed(user),))


def _hashed(user: str) -> bytes:
    return hashlib.blake2b(user.encode(), digest_size=16).digest()

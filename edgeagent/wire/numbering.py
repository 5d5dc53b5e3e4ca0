"""Messages of a session arrive once and in order, whatever the way between loses or repeats. No I/O, no clock.

Each end numbers what it says from 0 and keeps it until the other has told, in its keepalives, that it came. After a
connection was away, when a number is missed, and when something is overdue, all that is kept is said again.
"""

import enum
from collections import OrderedDict

from edgeagent.core.errors import PeerLostError, WireError
from edgeagent.wire.messages import LEASE_S, Said

MAX_KEPT = 4096
OVERDUE_S = LEASE_S / 2
"""Not seen for so long: said again. Keepalives come each quarter of a lease."""


class Order(enum.Enum):
    NEXT = enum.auto()
    AGAIN = enum.auto()
    """It came before."""
    EARLY = enum.auto()
    """One before it is missing."""


class Outgoing:
    """What this end said and the other has not told to have."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Said] = OrderedDict()
        self._next = 0
        self._said_at_s = 0.0

    def add(self, message: Said, now_s: float) -> Said:
        """The message with its number. Raises PeerLostError when the other end acknowledges nothing."""
        if len(self._kept) >= MAX_KEPT:
            raise PeerLostError(f"the other end has not told to have any of {MAX_KEPT} messages")
        if not self._kept:
            self._said_at_s = now_s
        numbered = message.model_copy(update={"number": self._next})
        self._kept[self._next] = numbered
        self._next += 1
        return numbered

    def note_seen(self, before: int, now_s: float) -> None:
        """The other end has all numbers before this one. Raises WireError when those were never said."""
        if before > self._next:
            raise WireError(f"message {before - 1} was acknowledged before it was sent")
        while self._kept and next(iter(self._kept)) < before:
            self._kept.popitem(last=False)
            self._said_at_s = now_s

    @property
    def is_empty(self) -> bool:
        return not self._kept

    def is_overdue(self, now_s: float) -> bool:
        return bool(self._kept) and now_s - self._said_at_s > OVERDUE_S

    def again(self, now_s: float) -> list[Said]:
        """All that is kept, to be sent once more."""
        self._said_at_s = now_s
        return list(self._kept.values())


class Incoming:
    """What the other end said: `seen` is the first number that has not come."""

    def __init__(self) -> None:
        self.seen = 0
        self._asked = -1

    def take(self, number: int) -> Order:
        if number < self.seen:
            return Order.AGAIN
        if number > self.seen:
            return Order.EARLY
        self.seen += 1
        return Order.NEXT

    def is_news(self) -> bool:
        """Whether what is missing now has not been asked for."""
        is_news, self._asked = self._asked != self.seen, self.seen
        return is_news

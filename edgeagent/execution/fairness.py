"""Who is next: priorities that age, fair shares between users, the earliest deadline first. Pure: times are given.

Waiters of one user and one priority form a lane. Of all lanes the highest priority goes first; among equals the user
who has had the least (start-time fair queuing: Goyal, Vin, Cheng, SIGCOMM 1996, in seconds of turns); within a lane
the earliest deadline. A lane that is passed over rises by one priority each `ageing_s`, without end, so that whatever
arrives later cannot hold it up for ever; being served brings it back.
"""

import enum
from dataclasses import dataclass, field, replace

from edgeagent.core.errors import BusyError, TooManyRequestsError

AGEING_S = 30.0
AGEING_TURNS = 4
"""A lane does not rise before so many mean turns: on a slow machine, waiting for a few others is not starving."""
PATIENCE_S = 60.0
"""A waiter without a deadline is put in its lane's order as if it had this one, so that others cannot pass for ever."""
FIRST_GUESS_S = 1.0
"""What a turn is charged until one was measured; corrected when it ends."""
GAIN = 1 / 8
"""Weight of the newest turn in the mean, as for round-trip times (RFC 6298, section 2)."""


class Priority(enum.IntEnum):
    """HIGH: someone waits before a screen. LOW: background work."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request may ask of the engine. Times are monotonic seconds.

    `needs_s` is the least a turn takes: it is not begun when it could not end by `deadline_s`. `since_s` is when the
    request took its place; None: it takes one now. `Admission.place` fills it in.
    """

    user: str = ""
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = None
    needs_s: float = 0.0
    since_s: float | None = None


ANYONE = Claim()


@dataclass(frozen=True, slots=True)
class Urgency:
    """What a turn counts for in the engine: the priority it has come to (0 is served first), and when it is due."""

    priority: int = Priority.NORMAL
    due_s: float = 0.0
    """Monotonic seconds, the same in every process of a machine."""


USUAL = Urgency()


@dataclass(eq=False, slots=True)
class Waiter:
    """One turn that is waited for, or held. `number` counts arrivals."""

    claim: Claim
    number: int
    since_s: float
    started_s: float = 0.0
    charged_s: float = 0.0
    urgency: Urgency = USUAL
    """Since it began."""

    @property
    def latest_start_s(self) -> float | None:
        """None: it may wait for ever."""
        return None if self.claim.deadline_s is None else self.claim.deadline_s - self.claim.needs_s

    @property
    def due_s(self) -> float:
        latest = self.latest_start_s
        return self.since_s + PATIENCE_S if latest is None else latest

    def is_late(self, now_s: float) -> bool:
        latest = self.latest_start_s
        return latest is not None and now_s > latest


@dataclass(slots=True)
class _Account:
    """What one user has had, and has under way. `tag_s`: start tag of the next turn; `lanes`: when each was served."""

    tag_s: float
    num_places: int = 0
    num_running: int = 0
    num_away: int = 0
    last_turn: int = -1
    lanes: dict[Priority, float] = field(default_factory=dict)


class FairQueue:
    """At most `slots` turns run; at most `queue` requests, `per_user` of one user, wait, and as many may be away."""

    def __init__(self, *, slots: int, queue: int, per_user: int | None = None, ageing_s: float = AGEING_S) -> None:
        self.slots = slots
        self._queue = queue
        self._per_user = queue if per_user is None else min(per_user, queue)
        self._ageing_s = ageing_s
        self._accounts: dict[str, _Account] = {}
        self._virtual_s = 0.0
        self._num_joined = 0
        self._num_started = 0
        self.num_places = 0
        self.num_away = 0
        self.waiting: list[Waiter] = []
        self.running: set[Waiter] = set()
        self.mean_turn_s: float | None = None

    def check(self, user: str) -> None:
        """Whether one more request of `user` may come. Raises TooManyRequestsError, else BusyError."""
        account = self._accounts.get(user)
        own = account.num_places - account.num_running - account.num_away if account else 0
        if own >= self._per_user < self._queue:
            text = f"as many requests of user '{user}' wait for the model as may ({own}); try again later"
            raise TooManyRequestsError(text, self._until_free(self._num_users()))
        waiting = self.num_places - len(self.running) - self.num_away
        if waiting >= self._queue:
            text = f"as many requests wait for the model as may ({waiting}); try again later"
            raise BusyError(text, self._until_free(1))

    def enter(self, user: str) -> None:
        """Take a place. Raises TooManyRequestsError, BusyError."""
        self.check(user)
        account = self._accounts.setdefault(user, _Account(self._virtual_s))
        if account.num_places == 0:
            account.tag_s = max(account.tag_s, self._virtual_s)  # who was away has saved nothing up
        account.num_places += 1
        self.num_places += 1

    def exit(self, user: str) -> None:
        """Give a place back."""
        self._accounts[user].num_places -= 1
        self.num_places -= 1
        self._forget()

    def send_away(self, user: str) -> bool:
        """Others work for a request of this user from now on: in its place it neither runs nor waits.

        False: as many are away as may wait, and it stays.
        """
        account = self._accounts[user]
        if account.num_away >= self._per_user or self.num_away >= self._queue:
            return False
        account.num_away += 1
        self.num_away += 1
        return True

    def call_back(self, user: str) -> None:
        """It is away no longer."""
        self._accounts[user].num_away -= 1
        self.num_away -= 1

    def join(self, claim: Claim, now_s: float) -> Waiter:
        """Wait for a turn, in a place of this user."""
        since = now_s if claim.since_s is None else claim.since_s
        waiter = Waiter(replace(claim, since_s=since), self._num_joined, since)
        self._num_joined += 1
        self.waiting.append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        self.waiting.remove(waiter)

    def late(self, now_s: float) -> list[Waiter]:
        """Those whose turn could not end in time any more."""
        return [waiter for waiter in self.waiting if waiter.is_late(now_s)]

    def start_next(self, now_s: float) -> Waiter | None:
        """Begin the next turn; None: every slot is taken, or nobody waits who is in time."""
        able = [waiter for waiter in self.waiting if not waiter.is_late(now_s)]
        if len(self.running) >= self.slots or not able:
            return None
        lanes: dict[tuple[str, Priority], list[Waiter]] = {}
        for waiter in able:
            lanes.setdefault((waiter.claim.user, waiter.claim.priority), []).append(waiter)
        lane = min(lanes.values(), key=lambda lane: self._order(lane, now_s))
        chosen = min(lane, key=lambda waiter: (waiter.due_s, waiter.number))
        risen, *_ = self._order(lane, now_s)
        chosen.urgency = Urgency(max(risen, int(Priority.HIGH)), chosen.due_s)
        self._start(chosen, now_s)
        return chosen

    def finish(self, waiter: Waiter, now_s: float) -> None:
        """End a turn that was begun: its user is charged what it took."""
        self.running.remove(waiter)
        took = max(now_s - waiter.started_s, 0.0)
        mean = self.mean_turn_s
        self.mean_turn_s = took if mean is None else mean + GAIN * (took - mean)
        account = self._accounts[waiter.claim.user]
        account.num_running -= 1
        account.tag_s += took - waiter.charged_s
        # As fast as every user here is served on average, so that no stream of new users stays ahead of the old ones.
        self._virtual_s += took / self._num_users()

    def _order(self, lane: list[Waiter], now_s: float) -> tuple[int, float, int, int]:
        claim = lane[0].claim
        account = self._accounts[claim.user]
        oldest = min(waiter.since_s for waiter in lane)
        passed_over_s = now_s - max(oldest, account.lanes.get(claim.priority, oldest))
        rise = int(passed_over_s / max(self._ageing_s, AGEING_TURNS * (self.mean_turn_s or 0.0)))
        return claim.priority - rise, account.tag_s, account.last_turn, min(waiter.number for waiter in lane)

    def _start(self, waiter: Waiter, now_s: float) -> None:
        account = self._accounts[waiter.claim.user]
        self.waiting.remove(waiter)
        self.running.add(waiter)
        self._virtual_s = max(self._virtual_s, account.tag_s)
        waiter.started_s = now_s
        waiter.charged_s = FIRST_GUESS_S if self.mean_turn_s is None else self.mean_turn_s
        account.tag_s += waiter.charged_s
        account.num_running += 1
        account.last_turn = self._num_started
        account.lanes[waiter.claim.priority] = now_s
        self._num_started += 1

    def _num_users(self) -> int:
        return sum(account.num_places > 0 for account in self._accounts.values())

    def _until_free(self, num_sharing: int) -> float | None:
        """Seconds until `num_sharing` more turns have ended, by the measured mean; None: nothing was measured."""
        return None if self.mean_turn_s is None else num_sharing * self.mean_turn_s / self.slots

    def _forget(self) -> None:
        """Who is away and owes nothing is as good as new."""
        is_empty = self.num_places == 0
        for user, account in list(self._accounts.items()):
            if account.num_places == 0 and (is_empty or account.tag_s <= self._virtual_s):
                del self._accounts[user]
        if is_empty:
            self._virtual_s = 0.0

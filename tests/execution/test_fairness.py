"""Who is next, on a simulated clock: properties that hold for every sequence of arrivals, turns and departures."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgeagent.core.errors import BusyError, TooManyRequestsError
from edgeagent.execution.fairness import AGEING_S, AGEING_TURNS, PATIENCE_S, Claim, FairQueue, Priority, Urgency, Waiter

USERS = st.sampled_from(["ada", "bob", "cleo"])
PRIORITIES = st.sampled_from(list(Priority))


def joined(queue: FairQueue, claim: Claim, now_s: float = 0.0) -> Waiter:
    queue.enter(claim.user)
    return queue.join(claim, now_s)


def ended(queue: FairQueue, waiter: Waiter, now_s: float) -> None:
    queue.finish(waiter, now_s)
    queue.exit(waiter.claim.user)


def turns(queue: FairQueue, seconds: float, count: int, now_s: float = 0.0) -> list[Waiter]:
    """The next `count` turns of one slot, each of so many seconds."""
    had: list[Waiter] = []
    for _ in range(count):
        waiter = queue.start_next(now_s)
        assert waiter is not None
        now_s += seconds
        ended(queue, waiter, now_s)
        had.append(waiter)
    return had


class Machine(RuleBasedStateMachine):
    """Arrivals, turns and departures in any order, after each of which free slots are given out."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(slots=2, queue=6, per_user=4)
        self.now_s = 0.0

    @rule(user=USERS, priority=PRIORITIES, deadline=st.none() | st.floats(-1, 90), needs=st.floats(0, 5))
    def arrive(self, user: str, priority: Priority, deadline: float | None, needs: float) -> None:
        own = sum(waiter.claim.user == user for waiter in self.queue.waiting)
        num_waiting = len(self.queue.waiting)
        claim = Claim(user, priority, None if deadline is None else self.now_s + deadline, needs)
        try:
            joined(self.queue, claim, self.now_s)
        except TooManyRequestsError:
            assert own == 4
        except BusyError:
            assert num_waiting == 6
        else:
            assert own < 4
            assert num_waiting < 6
        self.give_out()

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.give_out()

    @precondition(lambda self: self.queue.running)
    @rule(data=st.data())
    def turn_ends(self, data: st.DataObject) -> None:
        held = sorted(self.queue.running, key=lambda waiter: waiter.number)
        ended(self.queue, data.draw(st.sampled_from(held)), self.now_s)
        self.give_out()

    @precondition(lambda self: self.queue.waiting)
    @rule(data=st.data())
    def waiter_leaves(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.queue.waiting))
        self.queue.leave(waiter)
        self.queue.exit(waiter.claim.user)
        self.give_out()

    @rule(slots=st.integers(1, 3))
    def slots_change(self, slots: int) -> None:
        self.queue.slots = slots
        self.give_out()

    def give_out(self) -> None:
        for waiter in self.queue.late(self.now_s):
            self.queue.leave(waiter)
            self.queue.exit(waiter.claim.user)
        while True:
            waiting, num_running = list(self.queue.waiting), len(self.queue.running)
            if (chosen := self.queue.start_next(self.now_s)) is None:
                break
            assert num_running < self.queue.slots
            assert not chosen.is_late(self.now_s)
            lane = [
                w for w in waiting if (w.claim.user, w.claim.priority) == (chosen.claim.user, chosen.claim.priority)
            ]
            assert (chosen.due_s, chosen.number) == min((w.due_s, w.number) for w in lane)
        # Work is never left waiting beside a free slot.
        assert not self.queue.waiting or len(self.queue.running) >= self.queue.slots

    @invariant()
    def places_are_those_of_who_is_here(self) -> None:
        assert self.queue.num_places == len(self.queue.waiting) + len(self.queue.running)
        if self.queue.num_places == 0:
            assert self.queue._accounts == {}


TestFairQueue = Machine.TestCase


@given(
    st.lists(st.tuples(st.floats(0.1, 4), st.integers(0, 3)), min_size=300, max_size=300),
    PRIORITIES,
    st.integers(1, 2),
)
def test_waiter_is_not_starved_by_new_users_of_the_highest_priority(
    steps: list[tuple[float, int]], priority: Priority, slots: int
) -> None:
    """The bound of the module's docstring: (p + 1) rises, then one turn of everybody who is here."""
    queue, now_s, longest_s, room = FairQueue(slots=slots, queue=8), 0.0, 4.0, 8
    running = [joined(queue, Claim(f"first {n}", Priority.HIGH)) for n in range(slots)]
    for _ in running:
        queue.start_next(now_s)
    patient = joined(queue, Claim("patient", priority), now_s)
    for index, (seconds, num_new) in enumerate(steps):
        for number in range(num_new):
            if queue.num_places - len(queue.running) < room:
                joined(queue, Claim(f"{index}.{number}", Priority.HIGH), now_s)
        now_s += seconds
        ended(queue, min(queue.running, key=lambda waiter: waiter.number), now_s)
        while queue.start_next(now_s):
            pass
        if patient in queue.running:
            break
    rise_s = max(AGEING_S, AGEING_TURNS * slots * longest_s)
    assert patient in queue.running
    assert now_s <= (priority + 1) * rise_s + (room + slots + 1) * longest_s


def test_first_request_of_a_user_goes_before_another_users_queue() -> None:
    queue = FairQueue(slots=1, queue=16)
    many = [joined(queue, Claim("ada"), 0.0) for _ in range(10)]
    assert queue.start_next(0.0) is many[0]
    one = joined(queue, Claim("bob"), 1.0)
    ended(queue, many[0], 2.0)
    assert queue.start_next(2.0) is one
    ended(queue, one, 4.0)
    assert turns(queue, 2.0, 9, 4.0) == many[1:]


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_users_share_the_seconds_not_the_turns(ada_s: float, bob_s: float) -> None:
    queue, now_s, had = FairQueue(slots=1, queue=8, ageing_s=1e9), 0.0, {"ada": 0.0, "bob": 0.0}
    for user in ("ada", "bob"):
        for _ in range(3):
            joined(queue, Claim(user), now_s)
    for _ in range(200):
        waiter = queue.start_next(now_s)
        assert waiter is not None
        user = waiter.claim.user
        seconds = ada_s if user == "ada" else bob_s
        joined(queue, Claim(user), now_s)
        now_s += seconds
        had[user] += seconds
        ended(queue, waiter, now_s)
        assert abs(had["ada"] - had["bob"]) <= 3 * max(ada_s, bob_s)


def test_user_who_was_away_has_saved_up_one_turn_at_most() -> None:
    queue = FairQueue(slots=1, queue=64)
    ada = [joined(queue, Claim("ada"), 0.0) for _ in range(8)]
    assert turns(queue, 10.0, 6) == ada[:6]
    for _ in range(30):
        joined(queue, Claim("bob"), 60.0)
    users = [waiter.claim.user for waiter in turns(queue, 1.0, 32, 60.0)]
    assert users[0] == "bob"
    assert users.index("ada") <= 10 + 1


def test_priorities_go_in_order_and_equals_as_they_came() -> None:
    queue = FairQueue(slots=1, queue=16)
    order = [Priority.LOW, Priority.NORMAL, Priority.HIGH] * 3
    for priority in order:
        joined(queue, Claim("ada", priority))
    had = turns(queue, 0.5, 9)
    assert [waiter.claim.priority for waiter in had] == sorted(order)
    for priority in Priority:
        numbers = [waiter.number for waiter in had if waiter.claim.priority is priority]
        assert numbers == sorted(numbers)


def test_earliest_deadline_goes_first_within_a_user() -> None:
    queue = FairQueue(slots=1, queue=16)
    deadlines = [50.0, 20.0, None, 80.0, 30.0]
    for deadline in deadlines:
        joined(queue, Claim("ada", deadline_s=deadline))
    assert [waiter.claim.deadline_s for waiter in turns(queue, 0.1, 5)] == [20.0, 30.0, 50.0, None, 80.0]


def test_turn_is_as_urgent_in_the_engine_as_its_request_has_become_before_it() -> None:
    queue = FairQueue(slots=4, queue=9)
    low, old, dated = (
        joined(queue, Claim("ada", Priority.LOW)),
        joined(queue, Claim("bob", Priority.LOW)),
        joined(queue, Claim("cleo", Priority.NORMAL, deadline_s=500.0, needs_s=20.0)),
    )
    assert queue.start_next(1.0) is dated
    assert dated.urgency == Urgency(Priority.NORMAL, 480.0)
    assert queue.start_next(1.0) is low
    assert low.urgency == Urgency(Priority.LOW, PATIENCE_S)
    assert queue.start_next(10 * AGEING_S) is old
    assert old.urgency == Urgency(Priority.HIGH, PATIENCE_S)


def test_turn_that_cannot_end_in_time_is_not_begun() -> None:
    queue = FairQueue(slots=1, queue=16)
    waiter = joined(queue, Claim("ada", deadline_s=10.0, needs_s=4.0))
    assert not queue.late(6.0)
    assert queue.late(6.5) == [waiter]
    assert queue.start_next(6.5) is None
    assert queue.start_next(6.0) is waiter


def test_refusal_says_when_to_come_back_by_what_turns_took() -> None:
    queue = FairQueue(slots=2, queue=3, per_user=2)
    joined(queue, Claim("ada"))
    turns(queue, 8.0, 1)
    for user in ("ada", "ada", "ada", "ada"):
        joined(queue, Claim(user))
        queue.start_next(0.0)
    with pytest.raises(TooManyRequestsError) as own:
        queue.enter("ada")
    joined(queue, Claim("bob"))
    with pytest.raises(BusyError) as all_of_them:
        queue.enter("cleo")
    assert (own.value.retry_after_s, all_of_them.value.retry_after_s) == (4.0, 4.0)
    assert not isinstance(all_of_them.value, TooManyRequestsError)


def test_accounts_of_users_who_left_are_forgotten() -> None:
    queue, now_s, source = FairQueue(slots=1, queue=4), 0.0, random.Random(7)
    joined(queue, Claim("always"), now_s)
    for number in range(500):
        if queue.num_places < 4:
            joined(queue, Claim(f"once {number}"), now_s)
        waiter = queue.start_next(now_s)
        assert waiter is not None
        now_s += source.random()
        if waiter.claim.user == "always":
            joined(queue, Claim("always"), now_s)
        ended(queue, waiter, now_s)
    assert len(queue._accounts) < 10

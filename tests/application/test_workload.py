"""What a peer predicts of its own queue."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.application.workload import Workload
from edgeagent.wire.messages import LEASE_S


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_job_beside_others_ends_when_its_part_and_theirs_are_done() -> None:
    clock = Clock()
    work = Workload(8, clock)
    assert work.finish_s(3.0) == 3.0
    short, long = work.begin("kitchen", 1.0), work.begin("cellar", 10.0)
    assert work.finish_s(3.0) == 3.0 + 1.0 + 3.0
    clock.now_s += 1.0  # half a second of each
    assert work.ahead_s == 0.5 + 9.5
    work.end(short)
    clock.now_s += 4.0
    assert work.ahead_s == 5.5
    work.end(long)
    assert work.ahead_s == 0.0


def test_place_is_kept_for_a_lease_and_taken_by_the_same_device() -> None:
    clock = Clock()
    work = Workload(2, clock)
    work.keep_place("kitchen", 5.0)
    work.keep_place("cellar", 5.0)
    assert work.is_full
    share = work.begin("kitchen", 4.0)
    assert work.ahead_s == 4.0 + 5.0 / 2
    clock.now_s += LEASE_S
    assert not work.is_full
    assert work.ahead_s == 2.0
    work.end(share)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 100)), max_size=12))
def test_what_is_left_never_grows_by_waiting_and_a_job_never_ends_sooner_than_alone(
    jobs: list[tuple[float, float]],
) -> None:
    clock = Clock()
    work = Workload(100, clock)
    for needs_s, passed_s in jobs:
        work.begin("d", needs_s)
        before = work.ahead_s
        clock.now_s += passed_s
        assert work.ahead_s <= before
        assert work.finish_s(needs_s) >= needs_s

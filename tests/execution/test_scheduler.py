"""The scheduler: who shares a batch, and that nobody is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.scheduler import Kind, Scheduler, Want


def decodes(alone: list[bool]) -> list[Want]:
    return [Want(i, Kind.DECODE, 1, is_alone=is_alone) for i, is_alone in enumerate(alone)]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 4))
def test_sequences_that_share_no_batch_decode_alone_and_everybody_in_turn(alone: list[bool], batch: int) -> None:
    scheduler, seen, wants = Scheduler(batch, 64), [0] * len(alone), decodes(alone)
    for _ in range(64):
        numbers = [grant.number for grant in scheduler.plan(wants)]
        assert len(numbers) == 1 or not any(alone[number] for number in numbers)
        assert len(numbers) <= batch
        for number in numbers:
            seen[number] += 1
    assert min(seen) > 0

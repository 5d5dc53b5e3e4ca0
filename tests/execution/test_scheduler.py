"""Which tokens share the next batch: pure decisions, and a simulated machine whose batches cost what they cost."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.scheduler import AGEING_S, Grant, Kind, Scheduler, Want

CHUNK = 64


def decode(number: int, num_tokens: int = 1) -> Want:
    return Want(number, Kind.DECODE, num_tokens)


def prompt(number: int, num_tokens: int, **more: object) -> Want:
    return Want(number, Kind.PREFILL, num_tokens, **more)  # type: ignore[arg-type]


def wants() -> st.SearchStrategy[list[Want]]:
    kinds = st.sampled_from(Kind)
    parts = st.tuples(kinds, st.integers(1, 200), st.booleans(), st.integers(0, 2), st.floats(0, 10))

    def build(rows: list[tuple[Kind, int, bool, int, float]]) -> list[Want]:
        return [
            Want(i, kind, count, min(count, CHUNK) if kind is Kind.PREFILL and has_span else None, priority, due)
            for i, (kind, count, has_span, priority, due) in enumerate(rows)
        ]

    return st.lists(parts, min_size=1, max_size=8).map(build)


@given(wants(), st.integers(1, 4), st.lists(st.floats(0.001, 0.1), min_size=1, max_size=5))
def test_every_batch_is_of_one_kind_within_limits_and_never_empty(
    given_wants: list[Want], decode_batch: int, seconds: list[float]
) -> None:
    scheduler, by_number = Scheduler(decode_batch, CHUNK), {want.number: want for want in given_wants}
    for took in seconds:
        grants = scheduler.plan(given_wants)
        granted = [by_number[grant.number] for grant in grants]
        assert grants
        assert len({want.kind for want in granted}) == 1
        assert len({grant.number for grant in grants}) == len(grants)
        for grant, want in zip(grants, granted, strict=True):
            assert 1 <= grant.num_tokens <= want.num_tokens
            assert want.span in (None, grant.num_tokens)
        if granted[0].kind is Kind.PREFILL:
            assert len(grants) == 1
            assert grants[0].num_tokens <= CHUNK
        else:
            assert len(grants) <= max(1, decode_batch)
            assert len(grants) == 1 or {grant.num_tokens for grant in grants} == {1}
        scheduler.observe(given_wants, grants, took)


def test_guesses_are_checked_only_of_an_answer_that_decodes_alone() -> None:
    scheduler = Scheduler(4, CHUNK)
    assert scheduler.plan([decode(1, 5)]) == [Grant(1, 5)]
    assert sorted(g.number for g in scheduler.plan([decode(1, 5), decode(2, 3)])) == [1, 2]
    assert {g.num_tokens for g in scheduler.plan([decode(1, 5), decode(2, 3)])} == {1}


def test_prompt_alone_takes_whole_chunks_and_the_first_due_goes_first() -> None:
    scheduler = Scheduler(4, CHUNK)
    later, sooner, background = prompt(1, 300, due=5.0), prompt(2, 300, due=3.0), prompt(3, 9, priority=2, due=0.0)
    assert scheduler.plan([later, sooner, background]) == [Grant(2, CHUNK)]


def read_all(scheduler: Scheduler, arriving: Callable[[int], list[Want]], left: int, chunk_s: float) -> float:
    """Seconds until prompt 0, of low priority and `left` tokens, is read beside those that keep arriving."""
    now = 0.0
    while left > 0:
        prompts = [prompt(0, left, priority=2, due=60.0), *arriving(int(now))]
        grants = scheduler.plan(prompts)
        if grants[0].number == 0:
            left -= grants[0].num_tokens
        scheduler.observe(prompts, grants, chunk_s)
        now += chunk_s
        assert now < 1e5, "it starves"
    return now


@given(st.integers(1, 4000), st.sampled_from([0, 1]), st.floats(0.05, 5.0))
def test_low_prompt_beside_an_endless_stream_of_urgent_ones_is_read_whole(
    tokens: int, priority: int, chunk_s: float
) -> None:
    """Each second another one comes that asks to be first."""
    took = read_all(
        Scheduler(4, CHUNK),
        lambda second: [prompt(1 + second, CHUNK, priority=priority, due=60.0 + second)],
        tokens,
        chunk_s,
    )
    alone_s = -(-tokens // CHUNK) * chunk_s
    assert took <= (2 - priority) * (AGEING_S + chunk_s) + 60 + alone_s + chunk_s


def test_prompt_that_was_not_passed_over_for_long_waits_for_the_urgent_one() -> None:
    scheduler, prompts = Scheduler(4, CHUNK), [prompt(1, 300, priority=2), prompt(2, 300, priority=0, due=9.0)]
    for _ in range(10):
        grants = scheduler.plan(prompts)
        assert grants == [Grant(2, CHUNK)]
        scheduler.observe(prompts, grants, AGEING_S / 11)


@pytest.mark.parametrize("num_streams", [1, 3])
@pytest.mark.parametrize("row_cost", [0.3, 0.9])
def test_answers_keep_their_pace_beside_a_long_prompt_that_still_moves(num_streams: int, row_cost: float) -> None:
    """On a machine where a batch of n rows takes 1 + row_cost * (n - 1) steps."""
    scheduler, left, now = Scheduler(4, CHUNK), 2000, 0.0
    answers = [decode(i) for i in range(num_streams)]
    idle_s = 1 + row_cost * (num_streams - 1)
    token_s: list[float] = []
    while left > 0:
        given_wants = [*answers, prompt(9, left)]
        grants = scheduler.plan(given_wants)
        rows = sum(grant.num_tokens for grant in grants)
        took = 1 + row_cost * (rows - 1)
        now += took
        scheduler.observe(given_wants, grants, took)
        if grants[0].number == 9:
            left -= rows
        else:
            token_s.append(now)
    gaps = sorted(b - a for a, b in itertools.pairwise(token_s))
    solo_s = 2000 / CHUNK * (1 + row_cost * (CHUNK - 1))
    assert gaps[int(0.99 * (len(gaps) - 1))] <= 3 * idle_s
    assert solo_s / now >= 0.2  # a machine on which rows cost nothing more can do little between two steps


def test_prompt_whose_spans_may_not_be_cut_shares_the_time_evenly() -> None:
    scheduler, spent = Scheduler(4, CHUNK), {Kind.DECODE: 0.0, Kind.PREFILL: 0.0}
    given_wants = [decode(1), prompt(2, 64, span=64)]
    for _ in range(400):
        grants = scheduler.plan(given_wants)
        kind = Kind.DECODE if grants[0].number == 1 else Kind.PREFILL
        took = 0.01 if kind is Kind.DECODE else 0.3
        spent[kind] += took
        scheduler.observe(given_wants, grants, took)
    assert 0.7 < spent[Kind.DECODE] / spent[Kind.PREFILL] < 1.4


def test_more_answers_than_may_share_a_batch_take_turns() -> None:
    scheduler, answers = Scheduler(2, CHUNK), [decode(i) for i in range(5)]
    counts = dict.fromkeys(range(5), 0)
    for _ in range(50):
        for grant in scheduler.plan(answers):
            counts[grant.number] += 1
    assert set(counts.values()) == {20}


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 4))
def test_sequences_that_share_no_batch_decode_alone_and_everybody_in_turn(alone: list[bool], batch: int) -> None:
    scheduler, seen = Scheduler(batch, CHUNK), [0] * len(alone)
    answers = [Want(i, Kind.DECODE, 1, is_alone=is_alone) for i, is_alone in enumerate(alone)]
    for _ in range(64):
        numbers = [grant.number for grant in scheduler.plan(answers)]
        assert len(numbers) == 1 or not any(alone[number] for number in numbers)
        assert len(numbers) <= batch
        for number in numbers:
            seen[number] += 1
    assert min(seen) > 0

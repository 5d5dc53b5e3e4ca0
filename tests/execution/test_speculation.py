"""The speculator against simulated texts and machines: what it loses at worst, what it gains at best."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeagent.execution.batch_costs import ALL_LOGITS, LEAST_STEPS, STEPS_TO_FORGET, BatchCosts
from edgeagent.execution.speculation import ROWS, Acceptance, Draft, Offer, Speculator

STEP_S = 0.012
WORST_LOSS = 0.03
MISJUDGED = 0.05
"""Of what drafts cost, at a moment: their times are measured, with the noise."""
CURVES = {
    # DESIGN §5: SmolLM2 Q4_1, one thread, a machine with wide vector units; 2 and 32 rows by the line through them.
    "wide": {2: 1.15, 4: 1.4, 8: 2.7, 16: 4.5, 32: 8.5},
    # Measured on an AVX2 machine, one thread, CPU time, median of 12: SmolLM2 Q4_1, and Q8_0.
    "narrow": {2: 1.91, 4: 3.25, 8: 5.94, 16: 11.5, 32: 22.9},
    "middling": {2: 2.0, 4: 2.93, 8: 4.37, 16: 7.63, 32: 14.6},
}

Text = Callable[[int, bool], bool]
"""Whether the guess at this token is right, told whether it is being drafted."""


@dataclass(slots=True)
class Machine:
    """Times of batches: a curve, and noise on each measurement. Losses count without the noise."""

    curve: dict[int, float]
    rng: random.Random
    noise: float = 0.0
    spikes: float = 0.0

    def seconds(self, rows: int) -> float:
        disturbed = 5.0 if self.rng.random() < self.spikes else 1.0
        return STEP_S * self.steps(rows) * self.rng.lognormvariate(0, self.noise) * disturbed

    def steps(self, rows: int) -> float:
        return 1.0 if rows == 1 else self.curve[rows]


@dataclass(slots=True)
class Run:
    tokens: int = 0
    steps: float = 0.0
    overdrawn: float = 0.0
    """Most steps lost at any token beyond the share that may be lost of those before."""
    sizes: list[int] = field(default_factory=list)


def answer(machine: Machine, costs: BatchCosts, text: Text, num_tokens: int, max_rows: int = 32) -> Run:
    """Decode one answer whose every guess exists; the strength is the run of right guesses."""
    run, speculator, lookup, strength = Run(), Speculator(costs), Acceptance(), 1
    while run.tokens < num_tokens:
        room = min(max_rows, num_tokens - run.tokens)
        draft = speculator.choose([Offer(lookup, strength, room - 1)], room)
        if draft is None:
            is_hit = text(run.tokens, False)
            lookup.observe(strength, is_hit=is_hit)
            strength = strength + 1 if is_hit else 1
            speculator.record_plain(machine.seconds(1))
            run.tokens, run.steps = run.tokens + 1, run.steps + 1
        else:
            accepted = 0
            while accepted < draft.num_tokens and text(run.tokens + accepted, True):
                accepted += 1
            rows = draft.num_tokens + 1
            speculator.record(draft, accepted, machine.seconds(rows))
            strength = strength + accepted + 1 if accepted == draft.num_tokens else 1
            run.tokens, run.steps = run.tokens + accepted + 1, run.steps + machine.steps(rows)
            run.sizes.append(rows)
        run.overdrawn = max(run.overdrawn, run.steps - run.tokens * (1 + WORST_LOSS))
    return run


def warm(machine: Machine, chunk_share: float = 1 / ALL_LOGITS) -> BatchCosts:
    """Costs after one prompt chunk of 64 and a few single tokens."""
    costs = BatchCosts()
    slope = chunk_share * (machine.curve[16] - 1) / 15
    costs.observe_chunk(64, STEP_S * (1 + 63 * slope))
    for _ in range(LEAST_STEPS // 2):
        costs.observe(1, machine.seconds(1))
    return costs


@st.composite
def curves(draw: st.DrawFn) -> dict[int, float]:
    """Costs that grow with the rows: a slope, and up to a fifth of unevenness."""
    slope = draw(st.floats(0.03, 1.0))
    unevenness = {rows: draw(st.floats(0.8, 1.2)) for rows in ROWS}
    found: dict[int, float] = {}
    least = 1.0
    for rows in ROWS:
        least = found[rows] = min(max(least, 1 + (rows - 1) * slope * unevenness[rows]), float(rows))
    return found


def texts(rng: random.Random) -> Iterator[tuple[str, Text]]:
    yield "never right", lambda _at, _drafted: False
    yield "wrong whenever drafted", lambda _at, drafted: not drafted
    chances = [rng.random() for _ in range(4)]
    yield "as chance will have it", lambda _at, _drafted: rng.random() < chances[0]
    yield "in phases", lambda at, _drafted: rng.random() < chances[(at // 40) % 4]
    yield "right for long, then never", lambda at, _drafted: at < 200
    yield "wrong each ninth time", lambda at, _drafted: at % 9 != 0


@settings(max_examples=25)
@given(curves(), st.integers(0, 2**32), st.floats(0, 0.15), st.floats(0, 0.05), st.integers(20, 700))
def test_no_text_costs_more_than_three_percent(
    curve: dict[int, float], seed: int, noise: float, spikes: float, num_tokens: int
) -> None:
    rng = random.Random(seed)
    machine = Machine(curve, rng, noise, spikes)
    for name, text in texts(rng):
        costs = warm(machine)
        for _ in range(2):  # a new engine, and one that has learned
            run = answer(machine, costs, text, num_tokens)
            assert run.overdrawn <= 0.5 + MISJUDGED * sum(map(machine.steps, run.sizes)), name
            assert run.steps <= max(run.tokens, 50) * (1 + WORST_LOSS), name


@pytest.mark.parametrize("name", CURVES)
def test_copied_text_comes_near_the_best_that_a_machine_can(name: str) -> None:
    machine = Machine(CURVES[name], random.Random(1), noise=0.1)
    costs = warm(machine)
    best = max(rows / machine.steps(rows) for rows in ROWS)
    answer(machine, costs, lambda _at, _drafted: True, 400)
    run = answer(machine, costs, lambda _at, _drafted: True, 1500)
    assert run.tokens / run.steps >= 1 + 0.75 * (best - 1)


@pytest.mark.parametrize("chance", [0.5, 0.7, 0.9])
def test_rate_on_chancy_text_is_near_that_of_the_best_fixed_draft(chance: float) -> None:
    machine = Machine(CURVES["wide"], random.Random(2), noise=0.1)
    rng = random.Random(3)
    run = answer(machine, warm(machine), lambda _at, _drafted: rng.random() < chance, 2000)
    known = [sum(chance**i for i in range(rows)) / machine.steps(rows) for rows in ROWS]
    assert run.tokens / run.steps >= 1 + 0.75 * (max(known) - 1)


def test_machine_where_batches_do_not_pay_decodes_plainly() -> None:
    machine = Machine({rows: float(rows) for rows in ROWS}, random.Random(4))
    run = answer(machine, warm(machine), lambda _at, _drafted: True, 1000)
    assert run.sizes == []


def test_nothing_is_drafted_before_anything_is_known_of_the_machine() -> None:
    speculator = Speculator(BatchCosts())
    for _ in range(500):
        speculator.record_plain(STEP_S)
    offer = Offer(Acceptance((1.0,)), 32, 31)
    assert speculator.credit > 9
    assert speculator.choose([offer], 32) is None


def test_draft_is_never_longer_than_rows_and_offer_allow() -> None:
    machine = Machine(CURVES["wide"], random.Random(5))
    run = answer(machine, warm(machine), lambda _at, _drafted: True, 600, max_rows=9)
    assert set(run.sizes) <= {2, 4, 8}
    assert 8 in run.sizes
    speculator, short = Speculator(warm(machine)), Offer(Acceptance((1.0,)), 0, 2)
    for _ in range(500):
        speculator.record_plain(STEP_S)
    assert speculator.choose([short], 32) == Draft(short, 1)


def test_source_that_costs_as_much_as_it_saves_is_left_alone() -> None:
    machine = Machine(CURVES["wide"], random.Random(6))
    speculator, sure = Speculator(warm(machine)), Acceptance((1.0,))
    for _ in range(1000):
        speculator.record_plain(STEP_S)
    dear, cheap = Offer(sure, 0, 15, token_cost=0.85), Offer(sure, 0, 15, token_cost=0.1)
    assert speculator.choose([dear], 16) is None
    draft = speculator.choose([dear, cheap], 16)
    assert draft is not None
    assert draft.offer is cheap


def test_size_that_was_slow_once_is_tried_again_after_a_while() -> None:
    costs = warm(Machine(CURVES["wide"], random.Random(7)))
    for _ in range(LEAST_STEPS):
        costs.observe(1, STEP_S)
    for _ in range(3):
        costs.observe(8, 8 * STEP_S)
    assert costs.ratio(8) == 8
    for _ in range(3 * STEPS_TO_FORGET):
        costs.observe(1, STEP_S)
    assert costs.ratio(8) < 5


@given(st.lists(st.tuples(st.sampled_from([1, *ROWS]), st.floats(1e-6, 100)), max_size=80))
def test_cost_of_a_batch_is_between_one_step_and_its_rows(seen: list[tuple[int, float]]) -> None:
    costs = BatchCosts()
    for rows, seconds in seen:
        costs.observe(rows, seconds)
        costs.observe_chunk(rows, seconds)
    for rows in (1, *ROWS):
        assert 1 <= costs.ratio(rows) <= rows


def test_draft_that_ended_early_costs_its_time_and_tells_nothing_of_its_size() -> None:
    """Where nothing is evaluated behind a wrong guess, a long draft that fails costs hardly more than a step."""
    costs = warm(Machine(CURVES["wide"], random.Random(1)))
    for _ in range(LEAST_STEPS):
        costs.observe(1, STEP_S)
    expected, speculator, draft = costs.ratio(16), Speculator(costs), Draft(Offer(Acceptance(), 4, 15), 15)
    speculator.record(draft, 0, 1.8 * STEP_S, ended_early=True)
    assert -0.8 < speculator.credit < -0.7
    assert costs.ratio(16) == expected
    speculator.record(draft, 0, 1.8 * STEP_S)
    assert speculator.credit < -0.8 - (expected - 1.1)
    assert costs.ratio(16) < expected

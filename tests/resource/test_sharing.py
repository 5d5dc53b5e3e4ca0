"""What a peer's other answers leave to one more."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.execution.scheduler import Kind, Scheduler, Want
from edgeagent.resource.cost import LinkSpeeds, Speeds
from edgeagent.resource.options import Ask, LocalOption, PeerOption, PromptOption, Situation
from edgeagent.resource.planner import decide
from edgeagent.resource.sharing import Batches, Slowdown, slowdowns, speeds_beside, speeds_of_stage

CHUNK = 64
FLAT = Batches({1: 0.011, 2: 0.013, 3: 0.014, 4: 0.016, 6: 0.02, 8: 0.025, 16: 0.05}, CHUNK, 0.2, 0.001)
STEEP = Batches({1: 0.0133, 2: 0.0216, 3: 0.0286, 4: 0.0356, 6: 0.0511, 8: 0.0648, 16: 0.1258}, CHUNK, 0.41, 0.0028)
"""SmolLM2 135M Q4_1 with repacked weights on one thread of an AMD EPYC."""
ALONE = Speeds(900, 60, 1e-6, 1e-5)
LOCAL = LocalOption("m", "Q4", Speeds(300, 30), 4096, 10**9, 20.0, 12_240, "bits")
PEER = PeerOption(
    "garage", "m", "Q4", ALONE, LinkSpeeds(0.01, 1e6, 1e6), 4096, 12_240, "bits", is_same_variant=True, quality=20.0
)


@given(st.integers(0, 20), st.integers(1, 4000))
def test_more_answers_beside_never_leave_more(num_answers: int, tokens: int) -> None:
    fewer, more = (speeds_beside(ALONE, n) for n in (num_answers, num_answers + 1))
    assert fewer.prefill_s(tokens) <= more.prefill_s(tokens)
    assert fewer.decode_s(tokens) < more.decode_s(tokens)
    assert speeds_beside(ALONE, 0) == speeds_of_stage(ALONE, 0) == ALONE


def test_peer_that_writes_another_answer_is_slower_and_does_not_make_wait() -> None:
    ask = Ask(prompts=[PromptOption(ReductionLevel.L0, 600)], max_tokens=32, expected_tokens=32)
    idle, busy = (
        next(c for c in decide(ask, Situation(LOCAL, [peer])).candidates if c.plan is PlanKind.REMOTE)
        for peer in (PEER, replace(PEER, num_beside=1))
    )
    assert idle.ttft_s < busy.ttft_s < 3 * idle.ttft_s
    assert idle.tpot_s < busy.tpot_s < 1.5 * idle.tpot_s


@pytest.mark.parametrize("batches", [FLAT, STEEP], ids=["flat", "steep"])
@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("decode_batch", [1, 2, 4])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "whole-chunks"])
def test_slowdowns_are_what_the_scheduler_makes_of_these_batches(
    batches: Batches, num: int, decode_batch: int, is_cut: bool
) -> None:
    found = slowdowns(batches, num + 1, decode_batch, is_cut=is_cut)[num - 1]
    alone_s = batches.chunk_s * PROMPT_TOKENS / CHUNK
    assert found.prompt == pytest.approx(read_s(batches, num, decode_batch, is_cut) / alone_s, rel=0.2)
    assert found.answer == pytest.approx(batches.step_s(num + 1, decode_batch) / batches.rows_s[1])


def test_what_a_peer_tells_counts_and_the_last_of_it_for_more_answers() -> None:
    told = (Slowdown(3.0, 1.5), Slowdown(2.0, 4.0))
    rates = [speeds_beside(ALONE, n, told).prefill_tok_s for n in (0, 1, 2, 3)]
    assert rates == pytest.approx([900, 300, 450, 450])
    assert [speeds_beside(ALONE, n, told).decode_tok_s for n in (1, 2, 3)] == pytest.approx([40, 15, 15])


def test_batch_that_was_timed_wrongly_makes_no_larger_one_quicker() -> None:
    strange = replace(FLAT, rows_s={**FLAT.rows_s, 2: 0.5})
    sizes = [strange.batch_s(rows) for rows in range(1, CHUNK + 1)]
    assert sizes == sorted(sizes)
    assert all(each.prompt >= 1 and each.answer >= 1 for each in slowdowns(strange, 4, 4, is_cut=True))


PROMPT_TOKENS = 10 * CHUNK


def read_s(batches: Batches, num: int, decode_batch: int, is_cut: bool) -> float:
    """How long the scheduler takes to have a prompt read beside so many answers."""
    scheduler, took_s, left = Scheduler(decode_batch, CHUNK), 0.0, PROMPT_TOKENS
    while left:
        wants = [Want(number, Kind.DECODE, 1) for number in range(num)]
        wants.append(Want(num, Kind.PREFILL, left, None if is_cut else min(left, CHUNK)))
        grants = scheduler.plan(wants)
        read = sum(grant.num_tokens for grant in grants if grant.number == num)
        seconds = batches.batch_s(read) if read else batches.step_s(len(grants), decode_batch)
        scheduler.observe(wants, grants, seconds)
        took_s, left = took_s + seconds, left - read
    return took_s

"""What answers teach the planner, and what they do not."""

from typing import Any

import pytest

from edgeagent.agent.experience import MAX_KNOWN, Experience
from edgeagent.core.events import Finished, Usage
from edgeagent.core.plan import AnswerReport, Candidate, Costs, Decision, Handover, PlanKind
from edgeagent.resource.options import Choice
from edgeagent.wire.messages import OfferedModel

OFFER = OfferedModel(
    model="m",
    variant="Q4",
    variant_sha256="0" * 64,
    exact_key="bits",
    prefill_tok_s=900,
    decode_tok_s=60,
    context_tokens=4096,
    kv_bytes_per_token=12_240,
)


def finished(plan: PlanKind, measured: tuple[float, float], k: int | None = None, **changes: Any) -> Finished:
    """An answer of 32 tokens that was predicted to begin after 1 s and to take 0.1 s a token."""
    peer = None if plan is PlanKind.LOCAL else "garage"
    chosen = Candidate(plan=plan, peer=peer, model="m", variant="Q4", k=k, ttft_s=1.0, tpot_s=0.1, total_s=4.1)
    report = AnswerReport(
        plan=plan,
        model="m",
        variant="Q4",
        peer=peer,
        why="because",
        measured=Costs(ttft_s=measured[0], tpot_s=measured[1]),
        decision=Decision(chosen=chosen, why="because", candidates=(chosen,)),
    )
    return Finished("stop", Usage(100, 32), report.model_copy(update=changes))


def knowing_garage() -> Experience:
    experience = Experience()
    assert experience.factors("garage", OFFER, 0.0) == {}
    return experience


def test_slow_answers_of_a_plan_make_its_next_prediction_longer_and_no_other_one() -> None:
    experience = knowing_garage()
    for _ in range(5):
        experience.note(finished(PlanKind.REMOTE, (2.0, 0.1)), "m", 0.0, is_free=True)
    factors = experience.factors("garage", OFFER, 0.0)
    assert list(factors) == [PlanKind.REMOTE]
    assert 1.5 < factors[PlanKind.REMOTE].first < 2.0
    assert factors[PlanKind.REMOTE].rest == pytest.approx(1.0)
    assert experience.factors("attic", OFFER, 0.0) == {}


def test_peer_that_offers_other_rates_begins_anew() -> None:
    experience = knowing_garage()
    experience.note(finished(PlanKind.REMOTE, (2.0, 0.2)), "m", 0.0, is_free=True)
    faster = OFFER.model_copy(update={"prefill_tok_s": 1800.0})
    assert experience.factors("garage", faster, 0.0) == {}


def test_first_answer_of_a_cut_waits_for_its_tail_and_does_not_count() -> None:
    experience = knowing_garage()
    experience.note(finished(PlanKind.SPLIT_PREFILL, (3.0, 0.1), k=8), "m", 0.0, is_free=True)
    assert experience.factors("garage", OFFER, 0.0) == {}
    experience.note(finished(PlanKind.SPLIT_PREFILL, (3.0, 0.1), k=8), "m", 0.0, is_free=True)
    assert experience.factors("garage", OFFER, 0.0)[PlanKind.SPLIT_PREFILL].first > 1.5


def test_what_was_learned_of_a_peer_goes_with_it() -> None:
    """One that is back among more than are remembered begins anew, with its cuts."""
    experience = knowing_garage()
    for _ in range(2):
        experience.note(finished(PlanKind.SPLIT_PREFILL, (3.0, 0.1), k=8), "m", 0.0, is_free=True)
    assert experience.factors("garage", OFFER, 0.0)
    for number in range(MAX_KNOWN):
        experience.factors(f"peer-{number}", OFFER, 0.0)
    assert experience.factors("garage", OFFER, 0.0) == {}
    experience.note(finished(PlanKind.SPLIT_PREFILL, (3.0, 0.1), k=8), "m", 0.0, is_free=True)
    assert experience.factors("garage", OFFER, 0.0) == {}  # its tail had to be made again


def test_answer_of_another_peer_that_claimed_the_job_tells_nothing_of_the_chosen_one() -> None:
    experience = knowing_garage()
    experience.note(finished(PlanKind.REMOTE, (9.0, 0.9), peer="attic"), "m", 0.0, is_free=True)
    assert experience.factors("garage", OFFER, 0.0) == {}
    assert experience.last("m") is None


def test_answer_that_was_handed_over_or_asked_for_by_name_tells_nothing_of_choices() -> None:
    experience = knowing_garage()
    lost = Handover(at_token=3, from_="peer garage", to="local", reason="lost")
    experience.note(finished(PlanKind.REMOTE, (9.0, 0.9), handover=(lost,)), "m", 0.0, is_free=True)
    assert experience.factors("garage", OFFER, 0.0) == {}
    assert experience.last("m") is None
    experience.note(finished(PlanKind.REMOTE, (1.0, 0.1)), "m", 0.0, is_free=False)
    assert experience.last("m") is None
    experience.note(finished(PlanKind.LOCAL, (1.0, 0.1)), "m", 0.0, is_free=True)
    assert experience.last("m") == Choice(PlanKind.LOCAL, None, None)

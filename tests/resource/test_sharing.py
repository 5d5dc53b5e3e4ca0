"""What a peer's other answers leave to one more."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.resource.cost import LinkSpeeds, Speeds
from edgeagent.resource.options import Ask, LocalOption, PeerOption, PromptOption, Situation
from edgeagent.resource.planner import decide
from edgeagent.resource.sharing import speeds_beside, speeds_of_stage

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
    assert idle.ttft_s < busy.ttft_s < 2 * idle.ttft_s
    assert idle.tpot_s < busy.tpot_s < 1.5 * idle.tpot_s

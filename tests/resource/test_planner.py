from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ContextLengthError, NoPlanError
from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.resource.corrections import Factors
from edgeagent.resource.cost import LinkSpeeds, Speeds, Work, meet_s, price_local, price_prefill
from edgeagent.resource.options import Ask, Choice, LocalOption, PeerOption, PromptOption, Rules, Situation
from edgeagent.resource.planner import HYSTERESIS, STAY, decide

LOCAL = LocalOption("m", "Q4", Speeds(30, 6), 4096, 10**9, 20.0, 12_240, "bits")
PEER = PeerOption(
    "garage", "m", "Q4", Speeds(900, 60), LinkSpeeds(0.01, 2e6, 2e6), 4096, 12_240, "bits", "f" * 64,
    quality=20.0, is_same_variant=True,
)  # fmt: skip


def ask(tokens: int = 1000, **changes: object) -> Ask:
    base = Ask(prompts=[PromptOption(ReductionLevel.L0, tokens)], max_tokens=64, expected_tokens=64, model="m")
    return replace(base, **changes)  # type: ignore[arg-type]


rates = st.floats(0.5, 5000)


@given(st.integers(1, 20_000), rates, st.floats(0, 500), rates)
def test_meeting_is_where_a_stepwise_race_meets(tokens: int, front: float, ready_s: float, back: float) -> None:
    met = meet_s(tokens, front, ready_s, back)
    covered = front * met + back * max(0.0, met - ready_s)
    assert covered == pytest.approx(tokens, rel=1e-6)
    assert met <= tokens / front * (1 + 1e-9)


@given(st.integers(1, 4000), st.integers(1, 500), rates, rates, rates, rates, st.floats(0, 2), st.floats(1e3, 1e9))
def test_prefill_is_never_priced_above_local(
    prompt: int, output: int, here: float, here_decode: float, there: float, there_decode: float, rtt: float, bw: float
) -> None:
    work, mine = Work(prompt, output), Speeds(here, here_decode)
    shared = price_prefill(work, mine, Speeds(there, there_decode), LinkSpeeds(rtt, bw, bw), 0.0, 12_240)
    alone = price_local(work, mine)
    assert shared.ttft_s <= alone.ttft_s * (1 + 1e-9)
    assert shared.total_s <= alone.total_s * (1 + 1e-9)


situations = st.builds(
    lambda here, there, rtt, bw, broken: Situation(
        replace(LOCAL, speeds=Speeds(here, here / 3)),
        [replace(PEER, speeds=Speeds(there, there / 3), link=LinkSpeeds(rtt, bw, bw), is_broken=broken)],
    ),
    rates, rates, st.floats(0, 2), st.floats(1e3, 1e9), st.booleans(),
)  # fmt: skip


@given(situations, st.integers(1, 4000), st.sampled_from([None, *PlanKind]))
def test_choice_is_allowed_and_a_named_plan_is_obeyed(situation: Situation, tokens: int, plan: PlanKind | None) -> None:
    try:
        decision = decide(ask(tokens, plan=plan), situation)
    except NoPlanError:
        assert plan not in (None, PlanKind.LOCAL)
        return
    assert decision.chosen.rejected is None
    assert plan in (None, decision.chosen.plan)
    assert len(decision.candidates) == 3


def test_slow_machine_asks_a_fast_peer_and_says_so() -> None:
    decision = decide(ask(), Situation(LOCAL, [PEER]))
    assert decision.chosen.plan is PlanKind.REMOTE
    assert decision.why.startswith("remote with peer garage: first token in")


def test_named_plan_is_explained_with_what_would_have_been_chosen() -> None:
    why = decide(ask(plan=PlanKind.PREFILL), Situation(LOCAL, [PEER])).why
    assert why.startswith("plan prefill was requested; the planner by itself would have chosen remote")


def test_text_that_may_not_leave_stays() -> None:
    decision = decide(ask(), Situation(LOCAL, [PEER], Rules(text_may_leave=False)))
    assert decision.chosen.plan is PlanKind.LOCAL
    assert {c.rejected for c in decision.candidates if c.peer} == {"the policy keeps text on this machine"}


@given(st.integers(2, 4000), st.floats(0, 1), rates, rates)
def test_warm_prompt_is_priced_at_what_is_new_of_it_and_says_so(
    tokens: int, part: float, prefill: float, decode: float
) -> None:
    warm = int(part * (tokens - 1))
    here = Situation(replace(LOCAL, speeds=Speeds(prefill, decode)))
    chosen = decide(ask(prompts=[PromptOption(ReductionLevel.L0, tokens, warm)]), here)
    new = decide(ask(tokens - warm), here)
    assert chosen.chosen.ttft_s == pytest.approx(new.chosen.ttft_s)
    assert chosen.chosen.warm_tokens == warm
    assert (f"with {warm} prompt tokens already in the cache" in chosen.why) is (warm > 0)


def test_warm_prompt_is_not_given_to_a_peer_that_has_to_read_all_of_it() -> None:
    warm = ask(prompts=[PromptOption(ReductionLevel.L0, 1000, 990)], max_tokens=4, expected_tokens=4)
    near = Situation(LOCAL, [replace(PEER, speeds=Speeds(900, 6))])
    assert decide(warm, near).chosen.plan is PlanKind.LOCAL
    cold = replace(warm, prompts=[PromptOption(ReductionLevel.L0, 1000)])
    assert decide(cold, near).chosen.plan is not PlanKind.LOCAL
    remote = next(c for c in decide(warm, near).candidates if c.plan is PlanKind.REMOTE)
    assert remote.warm_tokens == 0


def test_what_needs_more_memory_here_than_it_may_use_is_rejected_and_a_peer_is_asked() -> None:
    fast = replace(LOCAL, speeds=Speeds(3000, 300))
    assert decide(ask(), Situation(fast, [PEER], Rules(memory_limit_bytes=10**9))).chosen.plan is PlanKind.LOCAL
    decision = decide(ask(), Situation(fast, [PEER], Rules(memory_limit_bytes=10**9 - 1)))
    assert decision.chosen.plan is PlanKind.REMOTE
    told = {c.plan: c.rejected for c in decision.candidates}
    assert told[PlanKind.REMOTE] is None
    assert told[PlanKind.LOCAL] == told[PlanKind.PREFILL] == "it needs 1,000 MB of memory and may use 1,000 MB"


def test_peer_with_other_bits_may_not_prefill() -> None:
    table = decide(ask(), Situation(LOCAL, [replace(PEER, exact_key="other")])).candidates
    assert "not the same bits" in str(next(c.rejected for c in table if c.plan is PlanKind.PREFILL))


def test_mildest_reduction_in_time_wins_and_the_milder_one_is_explained() -> None:
    prompts = [PromptOption(ReductionLevel.L0, 1000), PromptOption(ReductionLevel.L2, 250)]
    alone = Situation(LOCAL, rules=Rules(latency_target_s=10))
    assert decide(ask(prompts=prompts), alone).chosen.reduction is ReductionLevel.L2
    assert "L0 would take 34 s" in decide(ask(prompts=prompts), alone).why
    patient = Situation(LOCAL, rules=Rules(latency_target_s=60))
    assert decide(ask(prompts=prompts), patient).chosen.reduction is ReductionLevel.L0


def test_prompt_too_long_everywhere_is_a_context_error() -> None:
    with pytest.raises(ContextLengthError, match="4096"):
        decide(ask(9000), Situation(LOCAL, [PEER]))


def test_deadline_that_nothing_meets_is_refused_with_reasons() -> None:
    with pytest.raises(NoPlanError, match=r"longer than 0\.1 s"):
        decide(ask(deadline_s=0.1), Situation(LOCAL, [PEER]))


@given(situations, st.integers(200, 4000), st.floats(0.001, 100))
def test_pruning_is_for_those_who_ask_for_it_and_stays_on_this_machine(
    situation: Situation, tokens: int, target_s: float
) -> None:
    pruned = PromptOption(ReductionLevel.L5, tokens, pruned_tokens=tokens // 2)
    both = [PromptOption(ReductionLevel.L0, tokens), pruned]
    situation = replace(situation, rules=Rules(latency_target_s=target_s))
    assert decide(ask(prompts=both), situation).chosen.reduction is ReductionLevel.L0
    decision = decide(ask(prompts=both, level=ReductionLevel.L5), situation)
    assert (decision.chosen.reduction, decision.chosen.plan) == (ReductionLevel.L5, PlanKind.LOCAL)
    assert "would have chosen" in decision.why
    assert "after reduction L5" not in decision.why
    with pytest.raises(NoPlanError, match=r"own cache only|moment ago"):
        decide(ask(prompts=both, level=ReductionLevel.L5, plan=PlanKind.REMOTE), situation)
    windowed = replace(situation, local=replace(situation.local, can_prune=False))
    with pytest.raises(NoPlanError, match="sliding window"):
        decide(ask(prompts=both, level=ReductionLevel.L5), windowed)


def test_pruned_prompt_is_read_whole_and_decoded_behind_fewer_positions() -> None:
    speeds = Speeds(1000, 100, 1e-7, 1e-6)
    whole, pruned = (price_local(Work(2000, 100, pruned_tokens=n), speeds) for n in (0, 1000))
    assert whole.tpot_s - pruned.tpot_s == pytest.approx(1000 * 1e-6)
    assert whole.ttft_s - whole.tpot_s == pytest.approx(pruned.ttft_s - pruned.tpot_s)


@given(situations, st.integers(1, 4000))
def test_adapter_stays_on_this_machine(situation: Situation, tokens: int) -> None:
    decision = decide(ask(tokens, adapter="brief"), situation)
    assert decision.chosen.plan is PlanKind.LOCAL
    assert all("brief" in (c.rejected or "") for c in decision.candidates if c.peer)
    with pytest.raises(NoPlanError, match="'brief' is on this machine only"):
        decide(ask(tokens, adapter="brief", plan=PlanKind.REMOTE), situation)


@given(situations, situations, st.integers(1, 4000))
def test_near_equal_plans_do_not_take_turns_and_staying_costs_little(
    one: Situation, other: Situation, tokens: int
) -> None:
    before = decide(ask(tokens), one).chosen
    free, kept = decide(ask(tokens), other), decide(ask(tokens, last=Choice.of(before)), other)
    assert Choice.of(kept.chosen) in (Choice.of(free.chosen), Choice.of(before))
    again = decide(ask(tokens, last=Choice.of(kept.chosen)), other)
    assert again.chosen == kept.chosen
    assert kept.chosen.total_s <= free.chosen.total_s * (1 + STAY) * (1 + HYSTERESIS) * (1 + 1e-9)


def test_plan_of_the_request_before_is_left_when_another_saves_more() -> None:
    remote, local = Choice(PlanKind.REMOTE, "garage", None), Choice(PlanKind.LOCAL, None, None)
    assert Choice.of(decide(ask(last=local), Situation(LOCAL, [PEER])).chosen) == remote
    here = price_local(Work(1000, 64), LOCAL.speeds).total_s
    near = replace(PEER, speeds=LOCAL.speeds, link=LinkSpeeds(1e-4, 1e9, 1e9))
    assert decide(ask(), Situation(LOCAL, [near])).chosen.plan is PlanKind.LOCAL
    for part, stays, is_told in ((0.97, True, False), (0.94, True, True), (0.85, False, False)):
        faster = Factors(first=part, rest=part)
        peer = replace(near, corrections={PlanKind.REMOTE: faster, PlanKind.PREFILL: faster})
        decision = decide(ask(last=local), Situation(LOCAL, [peer]))
        chosen = decision.chosen
        assert (chosen.plan is PlanKind.LOCAL) is stays
        assert ("as the request before" in decision.why) is is_told
        assert chosen.total_s <= here


def test_plan_that_was_slower_than_predicted_is_priced_so_and_says_it() -> None:
    slow = replace(PEER, corrections={PlanKind.REMOTE: Factors(first=2.0, rest=3.0)})
    bare, corrected = (
        next(c for c in decide(ask(), Situation(LOCAL, [peer])).candidates if c.plan is PlanKind.REMOTE)
        for peer in (PEER, slow)
    )
    assert corrected.ttft_s == pytest.approx(2 * bare.ttft_s)
    assert corrected.total_s - corrected.ttft_s == pytest.approx(3 * (bare.total_s - bare.ttft_s))
    assert corrected.correction == (2.0, 3.0)


def test_short_answer_of_a_prefill_is_the_peers_and_over_before_the_caches_meet() -> None:
    slow_link, there = LinkSpeeds(0.01, 1e5, 1e5), Speeds(900, 60)
    short, long = (price_prefill(Work(1000, n), LOCAL.speeds, there, slow_link, 0.0, 12_240) for n in (16, 4000))
    assert short.tpot_s == pytest.approx(1 / 60)
    assert short.total_s < short.ttft_s + 16 / 60
    assert long.tpot_s == pytest.approx(1 / 6)
    assert short.down_bytes < long.down_bytes

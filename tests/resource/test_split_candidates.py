"""What the planner makes of a model that could be split."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import NoPlanError
from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.resource.cost import LinkSpeeds, Speeds, Split, Work, price_split_decode, price_split_prefill
from edgeagent.resource.options import Ask, HeadOption, LocalOption, PeerOption, PromptOption, Rules, Situation
from edgeagent.resource.planner import decide
from edgeagent.resource.split_candidates import MAX_CUTS_PRICED, Shape, spread

SHAPE = Shape(layers=30, width=576, cell_bytes=12_240, chunk_tokens=64)
LOCAL = LocalOption("m", "Q4", Speeds(30, 6), 4096, 10**9, 20.0, 12_240, "bits", shape=SHAPE)
PEER = PeerOption(
    "garage", "m", "Q4", Speeds(900, 60), LinkSpeeds(0.01, 12.5e6, 12.5e6), 4096, 12_240, "bits", "f" * 64,
    quality=20.0, is_same_variant=True, cuts=tuple(range(1, 30)),
)  # fmt: skip
PRIVATE = Rules(text_may_leave=False)
HEAD = replace(LOCAL, kv_bytes_per_token=0, shape=replace(SHAPE, cell_bytes=0), head=HeadOption(8, "no file is here"))
rates = st.floats(0.5, 5000)


def ask(tokens: int = 1000, plan: PlanKind | None = None) -> Ask:
    prompts = [PromptOption(ReductionLevel.L0, tokens)]
    return Ask(prompts=prompts, max_tokens=64, expected_tokens=64, model="m", plan=plan)


def test_where_text_may_not_leave_hidden_states_do_if_that_is_faster() -> None:
    decision = decide(ask(), Situation(LOCAL, [PEER], PRIVATE))
    chosen = decision.chosen
    assert (chosen.plan, chosen.peer, chosen.wire_bits) == (PlanKind.SPLIT_PREFILL, "garage", 32)
    assert chosen.k is not None
    slow = replace(PEER, link=LinkSpeeds(0.01, 1e4, 1e4))
    assert decide(ask(), Situation(LOCAL, [slow], PRIVATE)).chosen.plan is PlanKind.LOCAL


def test_layers_that_the_peer_has_ready_are_taken_before_better_ones_that_it_has_to_make() -> None:
    free = decide(ask(), Situation(LOCAL, [PEER], PRIVATE)).chosen
    assert free.k is not None
    other = next(k for k in spread(PEER.cuts) if k > free.k)
    busy = replace(PEER, making_s=20.0, loaded=frozenset({(other, SHAPE.layers)}))
    ready = decide(ask(), Situation(LOCAL, [busy], PRIVATE)).chosen
    assert (ready.k, ready.making_s) == (other, 0.0)


def test_what_making_layers_ready_takes_is_part_of_the_price_and_told() -> None:
    free = decide(ask(), Situation(LOCAL, [PEER], PRIVATE)).chosen
    decision = decide(ask(), Situation(LOCAL, [replace(PEER, making_s=3.0)], PRIVATE))
    assert decision.chosen.ttft_s == pytest.approx(free.ttft_s + 3)
    assert decision.chosen.total_s == pytest.approx(free.total_s + 3)
    assert decision.chosen.making_s == 3.0
    assert "with 3.00 s for the peer to make its layers ready" in decision.why
    never = decide(ask(), Situation(LOCAL, [replace(PEER, making_s=300.0)], PRIVATE)).chosen
    assert never.plan is PlanKind.LOCAL


def test_where_text_may_leave_it_is_cheaper_to_send_it() -> None:
    assert decide(ask(), Situation(LOCAL, [PEER])).chosen.plan is PlanKind.REMOTE


def test_tokens_of_an_answer_are_text_too() -> None:
    with pytest.raises(NoPlanError, match=r"answer's tokens.*models slice m --layers 30:30 --variant Q4"):
        decide(ask(plan=PlanKind.SPLIT_DECODE), Situation(LOCAL, [PEER], PRIVATE))
    cramped = replace(LOCAL, no_output="its output head needs 40 MB beside it, and 10 MB may be used")
    with pytest.raises(NoPlanError, match=r"answer's tokens.*and 10 MB may be used"):
        decide(ask(plan=PlanKind.SPLIT_DECODE), Situation(cramped, [PEER], PRIVATE))


def test_whole_model_with_its_output_head_has_its_private_answers_shared_where_that_is_faster() -> None:
    drawing, able = replace(LOCAL, draws=True), replace(PEER, final_hidden=True)
    found = decide(ask(), Situation(drawing, [able], PRIVATE))
    free = {c.plan for c in found.candidates if c.rejected is None}
    assert free == {PlanKind.LOCAL, PlanKind.SPLIT_PREFILL, PlanKind.SPLIT_DECODE}
    assert found.chosen.plan is PlanKind.SPLIT_DECODE  # the peer is ten times as fast, and the link is fine
    assert found.chosen.k is not None
    assert found.chosen.down_bytes > 64 * SHAPE.split(found.chosen.k).row_bytes
    far = replace(able, link=LinkSpeeds(0.5, 12.5e6, 12.5e6))
    assert decide(ask(), Situation(drawing, [far], PRIVATE)).chosen.plan is PlanKind.SPLIT_PREFILL


def test_output_head_counts_where_tokens_are_drawn() -> None:
    heavy = replace(SHAPE, output_share=0.5)
    there, here = (heavy.split(15, final_hidden=drawn_here).decoded_here for drawn_here in (False, True))
    assert (there, here) == (0.25, 0.75)


def test_head_alone_leaves_the_plans_that_need_no_more() -> None:
    found = decide(ask(), Situation(HEAD, [PEER])).candidates
    free = [(c.plan, c.k) for c in found if c.rejected is None]
    assert free == [(PlanKind.REMOTE, None), (PlanKind.SPLIT_DECODE, 8)]
    reasons = {c.plan: c.rejected for c in found if c.rejected}
    assert set(reasons) == {PlanKind.LOCAL, PlanKind.PREFILL, PlanKind.SPLIT_PREFILL}
    assert set(reasons.values()) == {"only the first 8 layers are here: no file is here"}


def test_head_whose_rest_no_peer_runs_is_no_plan() -> None:
    with pytest.raises(NoPlanError, match="runs no layers from 8 on"):
        decide(ask(plan=PlanKind.SPLIT_DECODE), Situation(HEAD, [replace(PEER, cuts=(7, 9))]))
    with pytest.raises(NoPlanError, match="only the first 8 layers"):
        decide(ask(), Situation(HEAD, []))


def test_with_the_output_head_here_a_private_answer_is_drawn_here() -> None:
    drawing = replace(HEAD, draws=True)
    able = replace(PEER, final_hidden=True)
    chosen = decide(replace(ask(), has_penalties=True), Situation(drawing, [able], PRIVATE)).chosen
    assert (chosen.plan, chosen.k, chosen.wire) == (PlanKind.SPLIT_DECODE, 8, "exact")
    assert chosen.down_bytes > 64 * SHAPE.split(8).row_bytes
    with pytest.raises(NoPlanError, match="hold its output head, too"):
        decide(ask(), Situation(HEAD, [able], PRIVATE))
    with pytest.raises(NoPlanError, match="cannot give hidden states to draw from"):
        decide(ask(), Situation(drawing, [PEER], PRIVATE))


def test_lossy_wires_are_planned_only_where_they_are_allowed_and_named() -> None:
    slow = replace(PEER, link=LinkSpeeds(0.01, 1e5, 1e5))
    rules = Rules(plans=frozenset({PlanKind.SPLIT_DECODE}))
    exact = decide(ask(), Situation(HEAD, [slow], rules))
    assert {(c.wire, c.wire_bits) for c in exact.candidates if c.plan.is_split} == {("exact", 32)}
    lossy = decide(ask(), Situation(HEAD, [slow], replace(rules, lossy_wire=True)))
    assert (lossy.chosen.wire, lossy.chosen.wire_bits) == ("lossy", 8)
    assert lossy.chosen.wire_kl is not None
    assert lossy.chosen.up_bytes < exact.chosen.up_bytes / 3
    assert not any(c.wire == "lossy" for c in lossy.candidates if c.plan is PlanKind.SPLIT_PREFILL)
    fast = decide(ask(), Situation(HEAD, [PEER], replace(rules, lossy_wire=True)))
    assert (fast.chosen.wire, fast.chosen.wire_bits) == ("exact", 32)  # hardly anything would be saved


def test_output_head_counts_as_work_behind_the_cut() -> None:
    heavy, here = replace(SHAPE, output_share=0.9), Speeds(300, 10)
    there, link = Speeds(300, 60), LinkSpeeds(0.0, 1e12, 1e12)
    prices = [price_split_decode(Work(64, 8), here, there, link, 0.0, s.split(15)).tpot_s for s in (SHAPE, heavy)]
    assert prices == pytest.approx([(1 / 10 + 1 / 60) / 2, 0.05 / 10 + 0.95 / 60], rel=0.01)


def test_draws_that_look_at_the_prompt_are_not_made_where_it_is_not() -> None:
    with pytest.raises(NoPlanError, match="penalties"):
        decide(replace(ask(plan=PlanKind.SPLIT_DECODE), has_penalties=True), Situation(LOCAL, [PEER]))
    chosen = decide(replace(ask(plan=PlanKind.SPLIT_PREFILL), has_penalties=True), Situation(LOCAL, [PEER])).chosen
    assert chosen.plan is PlanKind.SPLIT_PREFILL


def test_peer_with_other_bits_gets_no_hidden_states() -> None:
    other = replace(PEER, exact_key="others")
    for plan in (PlanKind.SPLIT_PREFILL, PlanKind.SPLIT_DECODE):
        with pytest.raises(NoPlanError, match="not the same bits"):
            decide(ask(plan=plan), Situation(LOCAL, [other]))


@pytest.mark.parametrize("peer", [replace(PEER, cuts=()), replace(PEER, is_same_variant=False)])
def test_peer_without_a_tail_of_this_variant_is_no_candidate(peer: PeerOption) -> None:
    assert not any(c.plan.is_split for c in decide(ask(), Situation(LOCAL, [peer])).candidates)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=100, unique=True))
def test_cuts_are_priced_from_the_first_to_the_last(cuts: list[int]) -> None:
    cuts.sort()
    found = spread(cuts)
    assert len(found) <= MAX_CUTS_PRICED
    assert (found[0], found[-1]) == (cuts[0], cuts[-1])
    assert set(found) <= set(cuts)


@given(
    st.integers(1, 4000), st.integers(1, 300), rates, rates, st.floats(0, 1), st.floats(1e3, 1e9), st.integers(1, 29)
)  # fmt: skip
def test_split_is_no_faster_than_its_slowest_part(
    prompt: int, output: int, here_tok_s: float, there_tok_s: float, rtt_s: float, bytes_s: float, k: int
) -> None:
    work, split = Work(prompt, output), SHAPE.split(k)
    here, there, link = (
        Speeds(here_tok_s, here_tok_s / 3),
        Speeds(there_tok_s, there_tok_s / 3),
        LinkSpeeds(rtt_s, bytes_s, bytes_s),
    )
    prefill = price_split_prefill(work, here, there, link, 0.0, split)
    decode = price_split_decode(work, here, there, link, 0.0, split)
    head_s = split.here * here.prefill_s(prompt)
    assert prefill.ttft_s >= max(head_s, prompt * split.cell_bytes / bytes_s)
    assert decode.ttft_s >= max(head_s, prompt * split.row_bytes / bytes_s)
    assert decode.tpot_s >= rtt_s
    assert decode.total_s >= decode.ttft_s


def test_deeper_cut_sends_fewer_cells_back() -> None:
    downs = [
        price_split_prefill(Work(1000, 64), LOCAL.speeds, PEER.speeds, PEER.link, 0.0, SHAPE.split(k)).down_bytes
        for k in (1, 10, 20, 29)
    ]
    assert downs == sorted(downs, reverse=True)
    assert SHAPE.split(15) == Split(15, 30, 2304, 6120, 64)

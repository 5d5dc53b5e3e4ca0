"""What the planner makes of two peers, one behind the other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import NoPlanError
from edgeagent.core.plan import Candidate, Held, PlanKind, ReductionLevel
from edgeagent.resource.chain_candidates import chained, row_of
from edgeagent.resource.cost import LinkSpeeds, Speeds, Work, price_split_decode
from edgeagent.resource.options import Ask, HeadOption, LocalOption, PeerOption, PromptOption, Rules, Situation
from edgeagent.resource.partition import Load, Part, finish
from edgeagent.resource.planner import decide
from edgeagent.resource.split_candidates import Shape

SHAPE = Shape(layers=30, width=576, cell_bytes=0, chunk_tokens=64, output_share=0.2)
NEAR = LinkSpeeds(0.002, 12.5e6, 12.5e6)
LOCAL = LocalOption(
    "m", "Q4", Speeds(60, 12), 4096, 10**9, 20.0, 0, "bits", shape=SHAPE, head=HeadOption(6, "no file is here")
)
GARAGE = PeerOption(
    "garage", "m", "Q4", Speeds(100, 30), NEAR, 4096, 0, "bits", "f" * 64, quality=20.0, is_same_variant=True,
    cuts=tuple(range(1, 30)), final_hidden=True, most_between=24, links={"attic": NEAR},
)  # fmt: skip
ATTIC = replace(GARAGE, peer="attic", most_between=0, links={})
SPLIT_ONLY = Rules(plans=frozenset({PlanKind.SPLIT_DECODE}))
rates, speeds = st.floats(0.5, 5000), st.floats(1e3, 1e9)


def ask(tokens: int = 2000, answer: int = 16, plan: PlanKind | None = None) -> Ask:
    prompts = [PromptOption(ReductionLevel.L0, tokens)]
    return Ask(prompts=prompts, max_tokens=answer, expected_tokens=answer, model="m", plan=plan)


def chain_of(candidates: tuple[Candidate, ...]) -> Candidate:
    [found] = [c for c in candidates if len(c.peers) == 2]
    return found


def test_long_prompt_goes_through_two_peers_that_share_its_layers() -> None:
    decision = decide(ask(), Situation(LOCAL, [GARAGE, ATTIC], SPLIT_ONLY))
    chosen = decision.chosen
    assert (chosen.plan, chosen.peers, chosen.k, chosen.wire) == (
        PlanKind.SPLIT_DECODE,
        ("garage", "attic"),
        6,
        "exact",
    )
    head, middle, tail = chosen.stages
    assert (head, middle.begin, tail.end) == (Held(begin=0, end=6), 6, 30)
    assert middle.end == tail.begin == pytest.approx(18, abs=2)
    told = f"layers 0 to 5 here, 6 to {middle.end - 1} at garage, {tail.begin} to 29 at attic"
    assert told in decision.why
    assert decision.why.startswith("split-decode with peer garage and peer attic: ")
    single = min(c.total_s for c in decision.candidates if len(c.peers) == 1 and c.rejected is None)
    assert chosen.total_s < single * 0.9


@pytest.mark.parametrize(
    ("garage", "attic", "slowing"),
    [
        (GARAGE, replace(ATTIC, speeds=Speeds(2, 1)), "attic"),
        (replace(GARAGE, speeds=Speeds(2, 1)), ATTIC, "garage"),
        (replace(GARAGE, links={"attic": LinkSpeeds(0.002, 2e4, 2e4)}), ATTIC, "attic"),
    ],
)
def test_peer_that_would_slow_it_gets_no_layers(garage: PeerOption, attic: PeerOption, slowing: str) -> None:
    decision = decide(ask(), Situation(LOCAL, [garage, attic], SPLIT_ONLY))
    assert len(decision.chosen.peers) == 1
    rejected = chain_of(decision.candidates).rejected
    assert rejected is not None
    assert slowing in rejected
    assert "would slow it, and so gets no layers" in rejected


def test_long_answer_stays_with_one_peer() -> None:
    far = replace(GARAGE, links={"attic": LinkSpeeds(0.2, 12.5e6, 12.5e6)})
    decision = decide(ask(100, 400), Situation(LOCAL, [far, ATTIC], SPLIT_ONLY))
    assert len(decision.chosen.peers) == 1


@pytest.mark.parametrize(
    ("garage", "attic"),
    [
        (replace(GARAGE, most_between=0), ATTIC),
        (replace(GARAGE, links={}), ATTIC),
        (GARAGE, replace(ATTIC, is_same_variant=False)),
        (GARAGE, replace(ATTIC, cuts=())),
    ],
)
def test_peers_that_cannot_work_like_that_are_no_candidate(garage: PeerOption, attic: PeerOption) -> None:
    found = decide(ask(), Situation(LOCAL, [garage, attic])).candidates
    assert not any(len(c.peers) == 2 for c in found)


@pytest.mark.parametrize(
    ("attic", "reason"),
    [
        (replace(ATTIC, exact_key="others"), "not the same bits"),
        (replace(ATTIC, is_broken=True), "failed a moment ago"),
        (replace(ATTIC, barred=frozenset({PlanKind.SPLIT_DECODE})), "no credential allows"),
        (replace(ATTIC, context_tokens=512), "fit the context"),
    ],
)
def test_what_rules_the_second_peer_out_is_told(attic: PeerOption, reason: str) -> None:
    rejected = chain_of(decide(ask(), Situation(LOCAL, [GARAGE, attic], SPLIT_ONLY)).candidates).rejected
    assert rejected is not None
    assert reason in rejected


def test_private_answers_are_drawn_here_behind_two_peers() -> None:
    drawing = replace(LOCAL, head=HeadOption(6, "no file is here"), draws=True)
    rules = Rules(text_may_leave=False)
    chosen = decide(ask(), Situation(drawing, [GARAGE, ATTIC], rules)).chosen
    assert chosen.peers == ("garage", "attic")
    with pytest.raises(NoPlanError, match="hold its output head, too"):
        decide(ask(), Situation(LOCAL, [GARAGE, ATTIC], rules))


def test_first_peer_runs_no_more_layers_than_it_has_room_for() -> None:
    few = replace(GARAGE, most_between=5)
    head, middle, _ = chain_of(decide(ask(), Situation(LOCAL, [few, ATTIC], SPLIT_ONLY)).candidates).stages
    assert (head.end, middle.end) == (6, 11)


def test_peers_of_a_chain_make_their_layers_at_the_same_time() -> None:
    ready = chain_of(decide(ask(), Situation(LOCAL, [GARAGE, ATTIC], SPLIT_ONLY)).candidates)
    _, middle, tail = ready.stages
    slow = replace(GARAGE, making_s=2.0), replace(ATTIC, making_s=3.0)
    making = chain_of(decide(ask(), Situation(LOCAL, slow, SPLIT_ONLY)).candidates)
    assert (making.making_s, making.stages) == (3.0, ready.stages)
    assert making.ttft_s == pytest.approx(ready.ttft_s + 3)
    loaded = slow[0], replace(slow[1], loaded=frozenset({(tail.begin, tail.end)}))
    assert middle.end == tail.begin
    assert chain_of(decide(ask(), Situation(LOCAL, loaded, SPLIT_ONLY)).candidates).making_s == 2.0


@given(st.integers(1, 4000), st.integers(1, 300), rates, rates, st.floats(0, 1), speeds, speeds, st.integers(1, 29))
def test_row_of_two_costs_what_a_split_with_one_peer_does(
    prompt: int, output: int, here: float, there: float, rtt_s: float, up: float, down: float, k: int
) -> None:
    work, link = Work(prompt, output), LinkSpeeds(rtt_s, up, down)
    local = replace(LOCAL, speeds=Speeds(here, here / 3))
    peer = replace(GARAGE, speeds=Speeds(there, there / 3), link=link, queue_s=0.5)
    row = row_of(work, local, SHAPE, [peer], {(0, 1): link}, final_hidden=False)
    chunks = -(-prompt // 64)
    found = finish(row, Load(chunks, output - 1), [Part(0, 0, k), Part(1, k, 30)])
    expected = price_split_decode(work, local.speeds, peer.speeds, link, 0.5, SHAPE.split(k))
    assert (found.first_s, found.step_s) == pytest.approx((expected.ttft_s, expected.tpot_s))


@given(st.integers(1, 4000), st.integers(1, 300), rates, rates, rates, speeds)
def test_chain_that_is_offered_is_sooner_than_either_peer_alone(
    prompt: int, output: int, here: float, first: float, second: float, bytes_s: float
) -> None:
    work, link = Work(prompt, output), LinkSpeeds(0.001, bytes_s, bytes_s)
    local = replace(LOCAL, speeds=Speeds(here, here / 3))
    garage = replace(GARAGE, speeds=Speeds(first, first / 3), link=link, links={"attic": link})
    attic = replace(ATTIC, speeds=Speeds(second, second / 3), link=link)
    chain = chained(work, local, garage, attic, final_hidden=False)
    assert chain is not None
    alone_s = min(
        price_split_decode(work, local.speeds, peer.speeds, link, 0.0, SHAPE.split(6)).total_s
        for peer in (garage, attic)
    )
    if chain.best == (0, 1, 2):
        assert chain.price.total_s <= alone_s * (1 + 1e-9)
    else:
        assert chain.price.total_s >= alone_s * (1 - 1e-9)

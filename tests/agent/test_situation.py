"""What the planner is told of peers."""

from dataclasses import replace

import pytest

from edgeagent.agent.answering import _target
from edgeagent.agent.situation import _queue_s
from edgeagent.core.plan import PlanKind, ReductionLevel
from edgeagent.execution.peers import MOST_MAKING_S, PeerView
from edgeagent.resource.cost import LinkSpeeds, Speeds
from edgeagent.resource.options import Ask, LocalOption, PeerOption, PromptOption, Rules, Situation
from edgeagent.resource.planner import decide
from edgeagent.resource.split_candidates import Shape
from edgeagent.wire.messages import LEASE_S, OfferedModel, PeerStatus


@pytest.mark.parametrize(
    ("slots", "queue", "wait_s", "expected_s"),
    [
        (4, 3, 30.0, 0.0),
        (1, 3, 30.0, 30.0),
        (4, 4, 40.0, 10.0),
        (4, 7, 70.0, 40.0),
        (4, 4, None, 2.5),
    ],
    ids=["slot-free", "one-slot", "one-to-end", "four-to-end", "untold"],
)
def test_job_waits_for_as_many_others_as_leave_it_no_slot(
    slots: int, queue: int, wait_s: float | None, expected_s: float
) -> None:
    model = OfferedModel(
        model="m", variant="Q4", exact_key="", prefill_tok_s=100, decode_tok_s=10, context_tokens=4096,
        kv_bytes_per_token=0, slots=slots,
    )  # fmt: skip
    view = PeerView(PeerStatus(id="garage", state="online", queue=queue, wait_s=wait_s))
    assert _queue_s(view, model) == pytest.approx(expected_s)


def test_peer_is_waited_for_as_long_as_it_needs_to_make_layers_ready_and_a_lease() -> None:
    shape = Shape(layers=30, width=576, cell_bytes=12_240, chunk_tokens=64)
    local = LocalOption("m", "Q4", Speeds(30, 6), 4096, 10**9, 20.0, 12_240, "bits", shape=shape)
    peer = PeerOption(
        "garage", "m", "Q4", Speeds(900, 60), LinkSpeeds(0.01, 12.5e6, 12.5e6), 4096, 12_240, "bits", "f" * 64,
        queue_s=1.5, is_same_variant=True, cuts=(8,), loaded=frozenset({(8, 30)}), making_s=7.0,
    )  # fmt: skip
    waits_s: list[float] = []
    for option in (peer, replace(peer, loaded=frozenset()), replace(peer, loaded=frozenset(), making_s=1e9)):
        situation = Situation(local, [option], Rules(text_may_leave=False, plans=frozenset({PlanKind.SPLIT_PREFILL})))
        ask = Ask([PromptOption(ReductionLevel.L0, 2000)], max_tokens=8, expected_tokens=8)
        chosen = decide(ask, situation).chosen
        target = _target(chosen, situation, is_named=False)
        assert target is not None
        waits_s.append(target.wait_s)
    assert waits_s == pytest.approx([LEASE_S + 1.5, LEASE_S + 1.5 + 7, LEASE_S + 1.5 + MOST_MAKING_S])

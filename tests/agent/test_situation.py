"""What the planner is told of peers."""

import pytest

from edgeagent.agent.situation import _queue_s
from edgeagent.execution.peers import PeerView
from edgeagent.wire.messages import OfferedModel, PeerStatus


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

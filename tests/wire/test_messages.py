"""What may be asked of a peer that passes a split model's job on."""

import pytest
from pydantic import ValidationError

from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.wire.messages import MAX_BLOCKS, Onward, Open, decode_message, encode_message
from tests.core.test_stages import SAME

STAGE = StageDescriptor.model_validate(SAME)


def job(kind: str, k: int, stage: StageDescriptor | None = STAGE) -> Open:
    onward = Onward(peer="attic", k=k)
    tokens = 9 if stage else 0
    return Open.model_validate({"job": kind, "stage": stage, "prompt_tokens": tokens, "onward": onward})


def test_job_that_is_passed_on_says_to_whom_and_where() -> None:
    asked = job("split-decode", STAGE.k + 1)
    assert decode_message(encode_message(asked)) == asked


@pytest.mark.parametrize(
    ("kind", "k", "stage"),
    [
        ("split-decode", STAGE.k, STAGE),
        ("split-decode", STAGE.layers, STAGE),
        ("split-prefill", STAGE.k + 1, STAGE),
        ("remote", STAGE.k + 1, None),
    ],
)
def test_job_that_cannot_be_passed_on_is_none(kind: str, k: int, stage: StageDescriptor | None) -> None:
    with pytest.raises(ValidationError, match="only a split-decode job can be passed on"):
        job(kind, k, stage)


def test_job_of_more_blocks_than_a_session_has_is_refused_before_they_are_counted() -> None:
    stage = STAGE.model_copy(update={"chunk_tokens": 1})
    job = Open(job="split-prefill", stage=stage, prompt_tokens=MAX_BLOCKS)
    assert len(job.block_sizes()) == MAX_BLOCKS
    with pytest.raises(ValidationError, match="blocks"):
        Open(job="split-prefill", stage=stage, prompt_tokens=MAX_BLOCKS + 1)

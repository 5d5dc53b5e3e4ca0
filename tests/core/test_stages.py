"""Stages: which layers are one, what hidden states take, and that two ends agree or say what differs."""

from typing import Any

import pytest

from edgeagent.core.errors import PeerError, RequestError
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.core.stages import Cut, hidden_row_bytes

SAME: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "variant_sha256": "0" * 64,
    "k": 8,
    "layers": 30,
    "width": 576,
    "hidden": "f32",
    "kv_type": "q8_0",
    "kv_planes": (204,) * 44,
    "flash_attention": True,
    "extra_buffers": False,
    "chunk_tokens": 64,
    "threads": 0,
    "engine": "0.3.36",
    "system": "AVX2 = 1",
}


def test_output_head_alone_is_a_stage_of_one_block() -> None:
    output = Cut.of(30, 30, 30)
    assert (output.is_output, output.is_head, output.num_blocks) == (True, False, 1)
    assert (Cut.of(0, 8, 30).is_head, Cut.of(8, 30, 30).num_blocks) == (True, 22)
    assert [Cut.of(*cut, 30).ends_inside for cut in ((0, 8), (8, 20), (8, 30), (30, 30))] == [True, True, False, False]


@pytest.mark.parametrize(("begin", "end"), [(8, 8), (8, 7), (0, 31), (31, 31), (-1, 8), (0, 0)])
def test_layers_that_are_not_there_are_refused(begin: int, end: int) -> None:
    with pytest.raises(RequestError, match="are no layers of 30"):
        Cut.of(begin, end, 30)


def test_row_of_hidden_states_has_its_size() -> None:
    assert [hidden_row_bytes(kind, 576) for kind in ("f32", "f16", "int8")] == [2304, 1152, 594]
    assert hidden_row_bytes("int8", 65) == 65 + 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("variant_sha256", "1" * 64), ("k", 9), ("hidden", "int8"), ("kv_type", "f16"), ("kv_planes", (204,) * 42),
        ("extra_buffers", True), ("chunk_tokens", 32), ("threads", 2), ("engine", "0.3.35"), ("system", "NEON = 1"),
    ],
)  # fmt: skip
def test_other_end_with_one_difference_is_refused_by_its_name(key: str, value: object) -> None:
    ours, theirs = StageDescriptor(**SAME), StageDescriptor.model_validate(SAME | {key: value})
    ours.check_same(StageDescriptor.model_validate_json(ours.model_dump_json()))
    with pytest.raises(PeerError, match=f"^the stages do not fit: {key} is "):
        ours.check_same(theirs)


def test_what_the_other_end_says_does_not_flood_a_message() -> None:
    theirs = StageDescriptor.model_validate(SAME | {"system": "x" * 2000})
    with pytest.raises(PeerError) as refused:
        StageDescriptor(**SAME).check_same(theirs)
    assert len(str(refused.value)) < 400

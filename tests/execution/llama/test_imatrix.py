"""Importance matrices: sums over experts, the two file forms, and what the embedded model yields."""

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.llama import imatrix
from edgeagent.model.gguf_header import read_header
from edgeagent.model.store import StoredVariant
from tests.execution.llama.conftest import Job


def test_routed_inputs_are_counted_for_their_experts() -> None:
    draw = np.random.default_rng(3)
    inputs = draw.normal(size=(20, 2, 5)).astype(np.float32)
    experts = draw.integers(0, 4, (20, 2)).astype(np.int32)
    sums, counts = np.zeros((4, 5)), np.zeros(4, np.int64)
    imatrix._add_routed(sums, counts, inputs, experts)
    for expert in range(4):
        chosen = inputs[experts == expert].astype(np.float64)
        assert counts[expert] == len(chosen)
        assert sums[expert] == pytest.approx((chosen**2).sum(axis=0))


def test_inputs_shared_by_all_slots_count_once_for_each() -> None:
    sums, counts = np.zeros((3, 2)), np.zeros(3, np.int64)
    imatrix._add_routed(sums, counts, np.array([[[1, 2]]], np.float32), np.array([[0, 2]], np.int32))
    assert counts.tolist() == [1, 0, 1]
    assert sums.tolist() == [[1, 4], [0, 0], [1, 4]]
    assert imatrix._means(sums, counts).tolist() == [1, 4, 1, 1, 1, 4]  # an expert without tokens has ones


def test_gguf_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "")
    writer.add_tensor("blk.0.ffn_up.weight.in_sum2", np.array([[8, 4], [3, 3]], np.float32))
    writer.add_tensor("blk.0.ffn_up.weight.counts", np.array([[4], [0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert imatrix.read(str(path))["blk.0.ffn_up.weight"].tolist() == [2, 1, 1, 1]


def test_older_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    name = b"blk.0.attn_q.weight"
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + struct.pack("<iifff", 2, 3, 2.0, 4.0, 6.0))
    assert imatrix.read(str(path))["blk.0.attn_q.weight"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is a text", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 40, struct.pack("<iii", 1, 2**30, 0)],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"bad (is no importance matrix|holds no usable)"):
        imatrix.read(str(path))


@pytest.mark.long
def test_quantising_with_calibration_differs_from_without(
    job: Job, smollm2: StoredVariant, prose: bytes, tmp_path: Path
) -> None:
    common = {"source": str(smollm2.path), "kind": "Q2_K", "threads": 1, "chunks": 2, "context_tokens": 64}
    plain, guided = tmp_path / "plain.gguf", tmp_path / "guided.gguf"
    assert job("quantize", target=str(plain), **common)["weights"] == 0
    assert job("quantize", prose, target=str(guided), **common)["weights"] == 30 * 7
    assert plain.stat().st_size == guided.stat().st_size
    assert plain.read_bytes() != guided.read_bytes()
    with guided.open("rb") as file:
        assert read_header(file, "guided").layers == 30


def test_type_of_very_few_bits_says_that_it_needs_a_matrix(job: Job, smollm2: StoredVariant, tmp_path: Path) -> None:
    target = str(tmp_path / "a.gguf")
    with pytest.raises(EngineError, match="needs an importance matrix here; give --calibration"):
        job("quantize", source=str(smollm2.path), target=target, kind="IQ2_XXS", threads=1)

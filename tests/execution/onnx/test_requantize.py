"""The encoder that computes in int8: the same bytes each time, close to the published one, whatever the company."""

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.embedding import Encoder
from edgeagent.execution.onnx import protobuf
from edgeagent.execution.onnx.engine import SentenceModel
from edgeagent.execution.onnx.graph import Graph
from edgeagent.execution.onnx.requantize import requantize
from edgeagent.execution.onnx.tiny import model_bytes
from edgeagent.model.store import StoredVariant

ROOT = Path(__file__).parents[3]


def test_requantize_gives_the_bytes_that_the_card_records(minilm: StoredVariant) -> None:
    content = requantize(minilm.path.read_bytes())
    recorded = minilm.card.variant("int8-dynamic")
    assert recorded is not None
    assert (len(content), hashlib.sha256(content).hexdigest()) == (recorded.bytes, recorded.sha256)


def test_requantized_multiplies_in_int8_with_the_published_weights(minilm: StoredVariant, encoder: Encoder) -> None:
    published, made = Graph.read(minilm.path.read_bytes()), Graph.read(encoder.model.read_bytes())
    kinds = [node.kind for node in made.nodes]
    assert (kinds.count("QAttention"), kinds.count("DynamicQuantizeMatMul"), kinds.count("MatMul")) == (6, 18, 0)
    weight = made.tensors["inner.encoder.layer.0.output.dense.weight"]
    assert weight.dtype == "int8"
    assert any(weight.shape == t.shape and (weight == t).all() for t in published.tensors.values())


def test_requantized_vectors_are_near_the_published_ones(minilm: StoredVariant, encoder: Encoder) -> None:
    texts = [line for line in (ROOT / "docs/guide.md").read_text().splitlines() if len(line) > 40][:40]
    a = SentenceModel.load(minilm.path, encoder.tokenizer, 1).embed(texts)
    b = SentenceModel.load(encoder.model, encoder.tokenizer, 1).embed(texts)
    cosines = (a * b).sum(axis=1)
    assert cosines.mean() > 0.98
    assert cosines.max() < 0.99999  # it is another arithmetic, not the published file once more


def test_requantized_vector_is_the_same_in_any_company(encoder: Encoder) -> None:
    model = SentenceModel.load(encoder.model, encoder.tokenizer, 1)
    texts = ["Rain in May.", "a " * 300, "ADR 0013!", "Rain in May."]
    together = model.embed(texts)
    for text, row in zip(texts, together, strict=True):
        assert (model.embed([text])[0] == row).all()


@pytest.mark.parametrize("content", [b"", b"no model at all", model_bytes()])
def test_requantize_refuses_what_is_not_the_published_encoder(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"encoder|wire type|bytes at|torn"):
        requantize(content)


def test_requantize_refuses_a_torn_file(minilm: StoredVariant) -> None:
    with pytest.raises(ValueError, match="a field of"):
        requantize(minilm.path.read_bytes()[:-1000])


@given(st.lists(st.tuples(st.integers(1, 2**20), st.integers(0, 2**63) | st.binary(max_size=300))))
def test_protobuf_fields_are_read_as_they_were_written(fields: list[tuple[int, int | bytes]]) -> None:
    content = b"".join(protobuf.number(n, v) if isinstance(v, int) else protobuf.text(n, v) for n, v in fields)
    found = [(f.number, f.value if isinstance(f.value, int) else bytes(f.value)) for f in protobuf.read(content)]
    assert found == fields


@given(st.binary(max_size=60))
def test_protobuf_of_any_bytes_ends_or_is_a_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(list(protobuf.read(content))) <= len(content)

"""Which cuts are legal and why others are not; the embedded model cut, found again and removed."""

import asyncio
import struct
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard, SlicedSource, Variant
from edgeagent.core.errors import ModelFileError, ModelNotFoundError, RequestError
from edgeagent.core.stages import SOURCE_KEY
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay, slicing
from edgeagent.model.choosing import Chooser
from edgeagent.model.gguf_header import GgufHeader, SkippedArray, Value
from edgeagent.model.prune import check_depth
from edgeagent.model.quality import ranks
from edgeagent.model.quantize import plan as plan_quantized
from edgeagent.model.registry import Registry
from edgeagent.model.slicing import check_cut, fault, legal_cuts, slice_variant
from edgeagent.model.store import ModelStore, StoredVariant
from tests.model.machines import registry

MODEL = "smollm2-135m-instruct"


def header(family: str = "llama", layers: int = 30, window: int | None = None, **keys: Value) -> GgufHeader:
    """Of a file that says this of itself; `keys` with `__` for a dot, behind the family's name."""
    metadata = {f"{family}.{key.replace('__', '.')}": value for key, value in keys.items()}
    return GgufHeader(
        version=3, architecture=family, layers=layers, width=64, heads=2, kv_heads=2, head_dim=32, vocab=8,
        context_tokens=4096, ffn=64, sliding_window=window, num_experts=None, num_experts_used=None, expert_ffn=None,
        file_type=None, has_chat_template=False, alignment=32, data_offset=0, metadata=metadata, tensors=(),
    )  # fmt: skip


def test_families_are_cut_where_their_kinds_of_layers_repeat() -> None:
    assert legal_cuts(header(), "m") == tuple(range(1, 30))
    assert legal_cuts(header("gemma3", 18, 512), "m") == (6, 12)
    assert legal_cuts(header("smollm3", 36), "m") == tuple(range(4, 36, 4))


def test_cards_and_files_agree_on_where_to_cut() -> None:
    for card in registry().cards:
        if shape := card.architecture:
            assert shape.split_points() == legal_cuts(header(shape.family, shape.layers, shape.sliding_window), card.id)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (header("gemma3n", 30), "the architecture 'gemma3n' needs more of others than their output is not known"),
        (header("mamba"), "the architecture 'mamba' needs more"),
        (header(attention__shared_kv_layers=4), r"not independent \(llama.attention.shared_kv_layers\)"),
        (header("qwen3", nextn_predict_layers=1), r"not independent \(qwen3.nextn_predict_layers\)"),
        (header("gemma3", 18, 512, attention__sliding_window_pattern=4), "windows follow a pattern of its own"),
        (header(attention__sliding_window_pattern=SkippedArray(30)), "windows follow a pattern of its own"),
        (header("llama", 30, 1024), "which of its layers see only 1024 tokens is not known"),
        (header("gemma3", 6, 512), "its 6 layers are one group of 6"),
    ],
)
def test_file_that_cannot_be_cut_is_refused_with_the_reason(found: GgufHeader, reason: str) -> None:
    with pytest.raises(RequestError, match=rf"^m cannot be cut into stages: .*{reason}"):
        check_cut(found, 0, 1, "m")


def test_window_as_long_as_the_context_is_none() -> None:
    assert fault(header("phi3", 32, 4096)) is None


@pytest.mark.parametrize(("begin", "end"), [(0, 4), (4, 18), (6, 8), (0, 18), (18, 19), (0, 0), (6, 6), (12, 6)])
def test_illegal_cut_is_refused_with_the_legal_ones(begin: int, end: int) -> None:
    with pytest.raises(
        RequestError, match=f"no stage {begin}:{end}; legal are 0:K, K:18 and K:L with K and L out of 6, 12, and"
    ):
        check_cut(header("gemma3", 18, 512), begin, end, "m")


def test_layers_between_two_cuts_are_a_stage() -> None:
    cut = check_cut(header("gemma3", 18, 512), 6, 12, "m")
    assert (cut.is_head, cut.ends_inside, cut.num_blocks) == (False, True, 6)


def test_hostile_file_is_refused_before_any_worker_sees_it(tmp_path: Path) -> None:
    """A key's array of 2^63 items in 57 bytes: the format's own reader does not come back from it."""
    path, key = tmp_path / "hostile.gguf", b"a"
    text = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 4, 2**63)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text)
    with pytest.raises(ModelFileError):
        slicing.read(path)


def a_stage() -> Variant:
    source = SlicedSource(kind="sliced", variant="F32", variant_sha256="0" * 64, begin=0, end=1)
    return Variant(name="F32-0to1", file="tiny.F32-0to1.gguf", quantization="F32", layers=1, source=source)


def test_stage_is_never_taken_for_a_model(tiny_card: ModelCard, tmp_path: Path) -> None:
    card = tiny_card.model_copy(update={"variants": (*tiny_card.variants, a_stage())})
    assert "F32-0to1" not in ranks(card)
    with pytest.raises(RequestError, match="only a stage of the model; prune the whole"):
        check_depth(card, card.variants[-1], 1)
    with pytest.raises(RequestError, match="only a stage of the model; quantise the whole"):
        plan_quantized(card, "Q8_0", "F32-0to1", None)
    store = ModelStore(tmp_path, Registry([card]), None)  # type: ignore[arg-type]  # nothing is fetched
    chooser = _chooser(store)
    assert chooser.stored("tiny") == []
    with pytest.raises(RequestError, match="is a stage of tiny and cannot answer alone"):
        chooser.stored("tiny/F32-0to1")
    with pytest.raises(ModelNotFoundError, match="models slice tiny --layers 0:1 --variant F32'"):
        asyncio.run(store.ensure("tiny", "F32-0to1"))


def test_embedded_model_is_cut_found_again_and_removed(
    smollm2: StoredVariant, embedded_store: ModelStore, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path, Registry([smollm2.card]), embedded_store._fetcher)
    path = store.path(smollm2.card, smollm2.variant)
    path.parent.mkdir(parents=True)
    path.symlink_to(smollm2.path)
    made = asyncio.run(slice_variant(store, MODEL, 0, 2, lambda: Worker.spawn("llama")))
    source = SlicedSource(kind="sliced", variant="Q4_1", variant_sha256=smollm2.sha256, begin=0, end=2)
    assert (made.stored.variant.name, made.stored.variant.source) == ("Q4_1-0to2", source)
    assert slicing.read(made.stored.path).metadata[SOURCE_KEY] == smollm2.sha256
    again = ModelStore(tmp_path, overlay.lay_over(Registry([smollm2.card]), tmp_path), embedded_store._fetcher)
    assert slicing.stored_stages(again, MODEL) == [made.stored]
    assert slicing.stage_of(made.stored) == (made.cut, smollm2.sha256)
    with pytest.raises(ModelFileError, match="is not the stage Q4_1"):
        slicing.stage_of(smollm2)
    assert [s.variant.name for s in _chooser(again).stored(MODEL)] == ["Q4_1"]
    with pytest.raises(RequestError, match="is a stage already; slice the variant it was made from"):
        asyncio.run(slice_variant(again, MODEL, 0, 1, lambda: Worker.spawn("llama"), base="Q4_1-0to2"))
    assert asyncio.run(again.remove(MODEL, "Q4_1-0to2")) >= made.stored.bytes
    assert not made.stored.path.exists()


def _chooser(store: ModelStore) -> Chooser:
    return Chooser(store, None, None, None, None, None)  # type: ignore[arg-type]  # asked for files alone

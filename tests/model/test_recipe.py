"""Sizes and loads from the shape, against real files and against llama.cpp's own quantiser on every family."""

import asyncio
import statistics
from pathlib import Path

import pytest

from edgeagent.core.cards import Architecture, Experts
from edgeagent.execution.supervisor import Worker
from edgeagent.model.gguf_header import GgufHeader, read_header
from edgeagent.model.mixes import MIXES, NEED_IMATRIX
from edgeagent.model.quantize import quantize
from edgeagent.model.recipe import file_bytes, load_of, load_of_header, metadata_bytes
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore, StoredVariant
from tests.model.tiny_decoder import quantised, write

CARDS = Path(__file__).parents[2] / "models"
MADE = ("Q8_0", "Q4_0", "Q3_K_M", "Q2_K")
QUICK = ("Q4_K_M", "Q3_K_M")
SLOW = tuple(name for name in MIXES if name not in {"F32", *QUICK, *NEED_IMATRIX})
IMATRIX_MATTERS = ("Q4_0", "Q5_0", "IQ4_XS", *sorted(NEED_IMATRIX))


def tiny(family: str, **more: object) -> Architecture:
    """16 layers (so that an eighth and a sixteenth are some) of rows both of 256 and not."""
    shape = {"layers": 16, "width": 256, "ffn": 256, "heads": 4, "kv_heads": 2, "head_dim": 32, "vocab": 32}
    return Architecture.model_validate({"family": family, "context_tokens": 64, **shape, **more})


TINY = {
    "llama": tiny("llama"),
    "llama of narrow rows": tiny("llama", width=288, tied_head=True),
    "llama of five heads a key": tiny("llama", heads=5, kv_heads=1, layers=11),
    "smollm3": tiny("smollm3", tied_head=True),
    "qwen2 of odd rows": tiny("qwen2", width=96, heads=3, kv_heads=1, ffn=272, tied_head=True),
    "qwen3": tiny("qwen3", tied_head=True),
    "qwen3moe": tiny("qwen3moe", heads=8, experts=Experts(count=4, used=2, ffn=32)),
    "qwen3moe of eight": tiny("qwen3moe", experts=Experts(count=8, used=2, ffn=32)),
    "gemma3": tiny("gemma3", layers=13, tied_head=True, sliding_window=32, window_pattern=6),
    "phi3": tiny("phi3", width=128, tied_head=True),
}


@pytest.fixture(scope="module", params=TINY)
def tiny_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Architecture, Path]:
    shape, path = TINY[request.param], tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write(path, shape)
    return shape, path


@pytest.mark.parametrize("file_type", [*QUICK, *(pytest.param(t, marks=pytest.mark.long) for t in SLOW)])
def test_every_type_of_every_family_is_predicted_as_the_quantiser_makes_it(
    tiny_file: tuple[Architecture, Path], file_type: str
) -> None:
    shape, path = tiny_file
    header = quantised(path, file_type)
    assert load_of(shape, file_type) == load_of_header(header)
    assert file_bytes(shape, file_type) == data_bytes(header) + metadata_bytes(shape)


@pytest.mark.long
@pytest.mark.parametrize("file_type", IMATRIX_MATTERS)
def test_types_guided_by_an_importance_matrix_are_predicted_as_the_quantiser_makes_them(
    tiny_file: tuple[Architecture, Path], file_type: str
) -> None:
    shape, path = tiny_file
    header = quantised(path, file_type, imatrix=True)
    assert load_of(shape, file_type, imatrix=True) == load_of_header(header)


def data_bytes(header: GgufHeader) -> int:
    return sum(tensor.num_bytes for tensor in header.tensors)


def test_every_family_holds_just_the_tensors_that_llama_cpp_looks_for(tiny_file: tuple[Architecture, Path]) -> None:
    assert asyncio.run(_layers_loaded(tiny_file[1])) == tiny_file[0].layers


async def _layers_loaded(path: Path) -> int:
    """Loading fails on a missing, misshapen or left-over tensor."""
    worker = await Worker.spawn("llama")
    try:
        reply, _ = await worker.call(
            "load",
            path=str(path),
            context_tokens=64,
            extra_buffers=False,
            kv_type="f16",
            flash_attention=False,
            threads=1,
            chunk_tokens=64,
        )
        return int(str(reply["layers"]))
    finally:
        await worker.close()


def test_embedded_model_is_predicted(smollm2: StoredVariant) -> None:
    assert_predicted(smollm2)


@pytest.mark.parametrize("made", MADE)
def test_variant_made_from_the_embedded_model_is_predicted(
    smollm2: StoredVariant, embedded_store: ModelStore, made: str
) -> None:
    stored = asyncio.run(quantize(embedded_store, smollm2.card.id, made, spawn, threads=2))
    assert_predicted(stored)


async def spawn() -> Worker:
    return await Worker.spawn("llama")


def test_gemma_is_predicted_with_its_window(embedded_store: ModelStore) -> None:
    stored = asyncio.run(embedded_store.ensure("gemma-3-270m"))
    assert_predicted(stored)
    load = load_of(stored.card.shape(stored.variant), "Q4_K_M")
    assert (load.window, load.window_layers, load.num_layers) == (512, 15, 18)


def assert_predicted(stored: StoredVariant) -> None:
    """Each type's weights exactly; the file within half a thousandth, for its metadata is estimated."""
    shape = stored.card.shape(stored.variant)
    with stored.path.open("rb") as file:
        header = read_header(file, stored.path.name)
    assert load_of(shape, stored.variant.file_type) == load_of_header(header)
    assert file_bytes(shape, stored.variant.file_type) == pytest.approx(stored.bytes, rel=5e-4)


def test_experts_in_use_are_a_share_of_the_file() -> None:
    shape = TINY["qwen3moe"]
    idle = shape.model_copy(update={"experts": Experts(count=4, used=1, ffn=32)})
    one_expert = 3 * shape.width * 32 * shape.layers
    assert load_of(shape, "Q8_0").layers["Q8_0"] - load_of(idle, "Q8_0").layers["Q8_0"] == one_expert
    assert file_bytes(shape, "Q8_0") == file_bytes(idle, "Q8_0")


def test_importance_matrix_changes_the_first_layers_of_q4_0() -> None:
    shape = TINY["llama"]
    assert load_of(shape, "Q4_0", imatrix=True).layers["Q4_1"] == 2 * shape.ffn * shape.width
    assert "Q4_1" not in load_of(shape, "Q4_0").layers


def test_published_sizes_of_shipped_cards_are_predicted() -> None:
    """Over seventy files of the hub; those quantised with an importance matrix or an older release are off a little."""
    ratios = {
        f"{card.id}/{variant.name}": file_bytes(card.shape(variant), variant.file_type) / variant.bytes
        for card in Registry.load(CARDS).cards
        for variant in card.variants
        if card.architecture and variant.bytes
    }
    assert len(ratios) > 70
    assert {name: ratio for name, ratio in ratios.items() if not 0.96 < ratio < 1.04} == {}
    assert statistics.median(abs(ratio - 1) for ratio in ratios.values()) < 1e-4


@pytest.mark.parametrize("model_id", ["llama-3.2-1b-instruct", "qwen3-1.7b", "smollm2-1.7b-instruct"])
def test_published_file_made_with_an_importance_matrix_is_predicted_as_such(model_id: str) -> None:
    card = Registry.load(CARDS).card(model_id)
    variant = card.variant("Q4_0")
    assert variant
    assert variant.bytes == pytest.approx(file_bytes(card.shape(variant), "Q4_0", imatrix=True), rel=1e-4)


def test_unknown_file_type_is_named() -> None:
    with pytest.raises(ValueError, match="file type 'Q9_K' is not known; known are"):
        file_bytes(TINY["llama"], "Q9_K")

"""Memory predictions: part by part, and against real workers."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.cards import KvType
from edgeagent.model.footprint import Setup, Weights, largest_context, predict, weigh
from edgeagent.model.machine import AVX2_TYPES
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS
from tests.model.machines import ROOT, registry

sys.path.insert(0, str(ROOT / "tools/bench"))
import predict_memory

SMOLLM2, GEMMA = registry().card("smollm2-135m-instruct"), registry().card("gemma-3-270m")
SETUP = Setup(4096, "q8_0", flash_attention=True, chunk_tokens=64)
MIB = 2**20

# VmHWM of workers that answered a prompt of 240 tokens: llama-cpp-python 0.3.36, x86-64 with AVX2, extra buffers on.
MEASURED_MIB = {
    ("smollm2-135m-instruct", "Q4_1", 1024, "q8_0"): 178.9,
    ("smollm2-135m-instruct", "Q4_1", 4096, "f16"): 257.2,
    ("smollm2-135m-instruct", "Q8_0", 4096, "q8_0"): 259.4,
    ("smollm2-135m-instruct", "Q4_0", 4096, "q8_0"): 265.3,
    ("smollm2-135m-instruct", "Q3_K_M", 4096, "q8_0"): 259.8,
    ("smollm2-135m-instruct", "Q2_K", 1024, "f16"): 222.5,
    ("gemma-3-270m", "Q4_K_M", 1024, "q8_0"): 362.3,
    ("gemma-3-270m", "Q4_K_M", 4096, "f16"): 424.5,
}


def weights(model_id: str, file_type: str, repacked: frozenset[str] = AVX2_TYPES) -> Weights:
    card = registry().card(model_id)
    assert card.architecture is not None
    found = weigh(card.architecture, file_type, repacked)
    assert found is not None
    return found


@pytest.mark.parametrize(("case", "measured"), MEASURED_MIB.items())
def test_prediction_is_near_what_was_measured(case: tuple[str, str, int, KvType], measured: float) -> None:
    model_id, file_type, context, kv_type = case
    shape = registry().card(model_id).architecture
    assert shape is not None
    found = predict(shape, weights(model_id, file_type), replace(SETUP, context_tokens=context, kv_type=kv_type))
    assert found.total_bytes / MIB == pytest.approx(measured, rel=0.03)


def test_prediction_is_near_a_real_worker(smollm2: StoredVariant) -> None:
    case = predict_memory.Case(smollm2, 1024, "q8_0", predict_memory.repacked_here(is_able=REPACKS))
    assert predict_memory.error_of(predict_memory.measure([case])[0]) < 0.10


def test_reading_weights_spares_the_second_copy() -> None:
    """Measured after loading: Q4_0 mapped 204.6 MiB, read 146.4."""
    assert SMOLLM2.architecture is not None
    mapped = predict(SMOLLM2.architecture, weights(SMOLLM2.id, "Q4_0"), SETUP)
    read = predict(SMOLLM2.architecture, weights(SMOLLM2.id, "Q4_0"), replace(SETUP, loading="read"))
    assert (mapped.total_bytes - read.total_bytes) / MIB == pytest.approx(204.6 - 146.4, rel=0.03)


def test_types_that_are_not_repacked_cost_nothing_extra() -> None:
    assert weights(SMOLLM2.id, "Q4_1").repacked_bytes == 0
    assert weights(SMOLLM2.id, "Q4_0", frozenset()).repacked_bytes == 0
    assert weights(SMOLLM2.id, "Q4_0").repacked_bytes == 106_168_320 * 18 // 32


def test_head_that_is_the_embedding_table_is_repacked_where_its_type_is() -> None:
    """On Arm with dot products Q8_0 is repacked: the head beside the layers."""
    found = weights(SMOLLM2.id, "Q8_0", frozenset({"Q8_0"}))
    assert found.repacked_bytes == found.layer_bytes - _vectors_bytes() + found.head_bytes


def _vectors_bytes() -> int:
    assert SMOLLM2.architecture is not None
    return SMOLLM2.architecture.layers * 2 * SMOLLM2.architecture.width * 4


def test_experts_are_most_of_a_mixture_and_a_token_reads_few_of_them() -> None:
    found = weights("qwen3-30b-a3b", "Q4_K_M")
    assert 0.9 < found.expert_bytes / found.file_bytes < 1
    assert found.used_expert_bytes == found.expert_bytes * 8 // 128
    assert found.token_bytes < found.file_bytes / 8


def test_unknown_type_counts_as_wholly_repacked_and_without_a_file_as_unknown() -> None:
    assert GEMMA.architecture is not None
    found = weigh(GEMMA.architecture, "Q9_X", AVX2_TYPES, 1000)
    assert found is not None
    assert (found.file_bytes, found.repacked_bytes, found.load) == (1000, 1000, None)
    assert weigh(GEMMA.architecture, "Q9_X", AVX2_TYPES) is None


@pytest.mark.parametrize("flash_attention", [True, False])
def test_largest_context_fits_and_a_longer_one_does_not(flash_attention: bool) -> None:
    assert GEMMA.architecture is not None
    found = weights(GEMMA.id, "Q4_K_M")
    setup = replace(SETUP, flash_attention=flash_attention, kv_type="f16")
    for memory in (400 * MIB, 1000 * MIB):
        most = largest_context(GEMMA.architecture, found, setup, memory)
        assert predict(GEMMA.architecture, found, replace(setup, context_tokens=most)).total_bytes <= memory
        assert predict(GEMMA.architecture, found, replace(setup, context_tokens=most + 2)).total_bytes > memory


@pytest.mark.long
def test_every_variant_here_is_predicted_within_a_tenth(embedded_store: object, models_dir: Path) -> None:
    """All files in the kept folder, at both context sizes and both cache types: about a minute."""
    from edgeagent.model.store import ModelStore

    assert isinstance(embedded_store, ModelStore)
    cards = [card for card in embedded_store.registry.cards if card.architecture]
    found = [s for c in cards for v in c.variants if (s := embedded_store.find(c.id, v.name))]
    assert found, f"no decoder in {models_dir}"
    for measured in predict_memory.measure(predict_memory.cases(found, predict_memory.repacked_here(is_able=REPACKS))):
        assert predict_memory.error_of(measured) < 0.10, str(measured[0])

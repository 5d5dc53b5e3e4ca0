"""Quantising the embedded model for real, in a worker."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.core.cards import QuantizedSource
from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.gguf_header import read_header
from edgeagent.model.quantize import Guidance, plan, quantize
from edgeagent.model.registry import Registry
from edgeagent.model.store import ModelStore, StoredVariant

MODEL = "smollm2-135m-instruct"
FILE_TYPE_Q4_0 = 2  # llama.h, LLAMA_FTYPE_MOSTLY_Q4_0


async def spawn() -> Worker:
    return await Worker.spawn("llama")


async def spawn_dead() -> Worker:
    worker = await Worker.spawn("llama")
    await worker.close()
    return worker


@pytest.fixture
def own_store(smollm2: StoredVariant, embedded_store: ModelStore, tmp_path: Path) -> ModelStore:
    """A fresh folder whose only file is the embedded model."""
    store = ModelStore(tmp_path, Registry([smollm2.card]), embedded_store._fetcher)
    path = store.path(smollm2.card, smollm2.variant)
    path.parent.mkdir(parents=True)
    path.symlink_to(smollm2.path)
    return store


def test_embedded_model_quantised_to_q4_0_is_verified_and_found(own_store: ModelStore) -> None:
    made = asyncio.run(quantize(own_store, MODEL, "Q4_0", spawn, threads=2))
    with made.path.open("rb") as file:
        assert read_header(file, "made").file_type == FILE_TYPE_Q4_0
    assert own_store.find(MODEL, "Q4_0") == made
    asyncio.run(_loads(made.path))


async def _loads(path: Path) -> None:
    worker = await spawn()
    try:
        reply, _ = await worker.call(
            "load",
            path=str(path),
            context_tokens=256,
            extra_buffers=False,
            kv_type="q8_0",
            flash_attention=True,
            threads=1,
            chunk_tokens=64,
        )
        assert reply["layers"] == 30
    finally:
        await worker.close()


def test_dead_worker_leaves_no_variant(own_store: ModelStore) -> None:
    with pytest.raises(EngineError):
        asyncio.run(quantize(own_store, MODEL, "Q4_0", spawn_dead, threads=2))
    assert own_store.find(MODEL, "Q4_0") is None


def test_fetched_variant_is_not_made(own_store: ModelStore) -> None:
    with pytest.raises(RequestError, match="fetched, not made"):
        asyncio.run(quantize(own_store, MODEL, "Q4_1", spawn, threads=2))


def test_unknown_type_is_refused_with_the_list_of_types(own_store: ModelStore) -> None:
    with pytest.raises(RequestError, match=r"'Q9_9' is no type that llama.cpp makes; use one of .*IQ2_XXS.*TQ2_0"):
        asyncio.run(quantize(own_store, MODEL, "Q9_9", spawn, threads=1))


def test_type_that_the_card_does_not_list_becomes_a_local_variant(own_store: ModelStore) -> None:
    card = own_store.registry.shipped(MODEL)
    made = plan(card, "Q5_K_M", "Q4_1", None)
    assert (made.name, made.file, made.source) == (
        "Q5_K_M",
        "SmolLM2-135M-Instruct.Q5_K_M.gguf",
        QuantizedSource(kind="quantized", variant="Q4_1"),
    )
    guided = plan(card, "Q2_K", "Q4_1", Guidance.from_text(b"text", 1))
    assert (guided.name, guided.file_type) == ("Q2_K-imatrix", "Q2_K")
    assert plan(card, "Q2_K", "Q4_1", None) == card.variant("Q2_K")


def test_quantising_to_the_type_it_has_is_refused(own_store: ModelStore) -> None:
    with pytest.raises(RequestError, match="is of type Q4_1 already"):
        plan(own_store.registry.shipped(MODEL), "Q4_1", "Q4_1", Guidance.from_text(b"text", 1))


@pytest.mark.long
def test_guided_variant_is_kept_and_its_namesake_of_another_text_refused(own_store: ModelStore) -> None:
    text = (Path(__file__).parents[2] / "LICENSE").read_bytes()
    guidance = Guidance.from_text(text, 2)
    made = asyncio.run(quantize(own_store, MODEL, "q2_k", spawn, threads=1, guidance=guidance))
    assert made.variant.name == "Q2_K-imatrix"
    registry = overlay.lay_over(Registry([own_store.registry.shipped(MODEL)]), own_store.folder)
    assert registry.variant(MODEL, "Q2_K-imatrix")[1].source == made.variant.source
    assert asyncio.run(quantize(own_store, MODEL, "Q2_K", spawn, threads=1, guidance=guidance)) == made
    other = Guidance.from_text(text + b"more", 2)
    with pytest.raises(RequestError, match=r"made from something else; first run 'edgeagent models rm"):
        asyncio.run(quantize(own_store, MODEL, "Q2_K", spawn, threads=1, guidance=other))


def test_interrupted_quantising_leaves_no_file_and_no_worker(own_store: ModelStore) -> None:
    workers: list[Worker] = []

    async def keep_worker() -> Worker:
        workers.append(await spawn())
        return workers[0]

    def interrupt(stage: str, done: int, total: int) -> None:
        assert (stage, done, total) == ("quantising", 1, 272)
        raise KeyError(stage)

    with pytest.raises(KeyError):
        asyncio.run(quantize(own_store, MODEL, "IQ4_NL", keep_worker, threads=1, on_step=interrupt))
    assert workers[0].exit_status is not None
    assert own_store.registry.card(MODEL).variant("IQ4_NL") is None
    assert not list(own_store.folder.rglob("*IQ4_NL*"))
    assert not overlay.path_of(own_store.folder, MODEL).exists()

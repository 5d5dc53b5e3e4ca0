"""Quantising the embedded model for real, in a worker."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.supervisor import Worker
from edgeagent.model.gguf_header import read_header
from edgeagent.model.quantize import quantize
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
    store = ModelStore(tmp_path, embedded_store.registry, embedded_store._fetcher)
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

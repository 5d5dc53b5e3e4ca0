"""Adapters and draft models are in the forecast that budget and limits of a worker are made from: real files."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.cards import ModelCard
from edgeagent.core.config import EngineConfig
from edgeagent.core.generation import Adapter, Generation, Sampling, TokenStep
from edgeagent.execution.vitals import resident_bytes
from edgeagent.model import drafts
from edgeagent.model.adapter_memory import most_loaded
from edgeagent.model.fence import Load, fence
from edgeagent.model.limits import Limits
from edgeagent.model.registry import Registry
from edgeagent.model.resident import Resident
from edgeagent.model.store import ModelStore, StoredVariant
from tests.conftest import CARDS
from tests.execution import adapters
from tests.model.test_adapters import ID, listing
from tests.model.test_rooming import pool_of
from tests.model.test_store import BytesFetcher

MB = 10**6
RANK = 400
"""About 190 MB: more than the slack in a worker's limits."""


def store_with(folder: Path, smollm2: StoredVariant, card: ModelCard) -> ModelStore:
    """Q4_1 of the embedded model alone, under this card."""
    target = folder / ID
    target.mkdir(parents=True)
    (target / smollm2.path.name).symlink_to(smollm2.path)
    return ModelStore(folder, Registry([card]), BytesFetcher(b""))


@contextlib.asynccontextmanager
async def resident_of(store: ModelStore, memory_bytes: int, sequences: int = 1) -> AsyncIterator[Resident]:
    limits = Limits(memory_bytes, 600, 1024, "q8_0", tpot_s=600, min_context_tokens=1024)
    async with pool_of(store, limits, EngineConfig(sequences=sequences)) as pool, pool.lease(ID) as resident:
        yield resident


async def answer(resident: Resident, adapter: Adapter | None, max_tokens: int = 4) -> int:
    prompt = await resident.local.encode([{"role": "user", "content": "Name a colour. " * 60}])
    generation = Generation("g", resident.variant.sha256 or "", prompt, Sampling(), max_tokens, adapter=adapter)
    return len([e async for e in resident.whole.generate(generation) if isinstance(e, TokenStep)])


def test_large_adapter_is_forecast_and_works_within_the_limits_of_its_worker(
    smollm2: StoredVariant, tmp_path: Path
) -> None:
    card = listing("broad")
    store = store_with(tmp_path / "models", smollm2, card)

    async def body() -> None:
        async with resident_of(store, 4000 * MB) as bare:
            alone_bytes = bare.memory_bytes
        made = adapters.write(store.path(card, card.adapters[0]), rank=RANK, scale=0.001)
        size = Path(made.path).stat().st_size  # noqa: ASYNC240
        async with resident_of(store, 4000 * MB) as resident:
            assert resident.memory_bytes == resident.single_bytes == alone_bytes + size
            assert await answer(resident, resident.find_adapter("broad")) == 4
            assert resident.pid is not None
            assert alone_bytes < (resident_bytes(resident.pid) or 0) < 1.05 * resident.memory_bytes
        async with resident_of(store, alone_bytes + 20 * MB) as tight:  # the model works without room for it
            assert tight.memory_bytes == alone_bytes
            assert await answer(tight, None) == 4
        async with resident_of(store, alone_bytes + size + 5 * MB, sequences=4) as narrow:
            assert narrow.local.settings.sequences == 1
            assert narrow.memory_bytes == alone_bytes + size

    asyncio.run(body())


def test_draft_model_is_forecast_and_works_within_the_limits_of_its_worker(
    smollm2: StoredVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "LEAST_SAVING", 1)  # no pair of embedded models has one vocabulary and two sizes
    card = Registry.load(CARDS).card(ID)
    store = store_with(tmp_path, smollm2, card.model_copy(update={"draft": ID}))

    async def body() -> None:
        async with resident_of(store, 4000 * MB) as resident:
            assert resident.local.settings.draft_path == str(tmp_path / ID / smollm2.path.name)
            assert await answer(resident, None) == 4
            assert resident.pid is not None
            assert (resident_bytes(resident.pid) or 0) < 1.05 * resident.memory_bytes
            both_bytes = resident.memory_bytes
        async with resident_of(store, both_bytes - 1) as without:
            assert without.local.settings.draft_path == ""
            assert without.memory_bytes < both_bytes - smollm2.bytes

    asyncio.run(body())


def test_fence_of_two_contexts_has_room_for_the_logits_of_both() -> None:
    one = Load(10**9, 10**8, 10**7, 150_000, 512, 4, is_mapped=True)
    two = replace(one, num_contexts=2)
    assert fence(two).data_bytes - fence(one).data_bytes == 4 * one.vocab * one.chunk_tokens


@pytest.mark.parametrize(("sequences", "expected"), [(1, 4), (3, 4), (4, 5), (9, 10)])
def test_as_many_adapters_count_as_can_be_loaded(sequences: int, expected: int) -> None:
    assert most_loaded(sequences) == expected

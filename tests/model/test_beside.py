"""What a model's engine leaves to one job more is measured with the real engine."""

import asyncio
from dataclasses import replace
from pathlib import Path

from edgeagent.model.beside import measure_beside
from edgeagent.model.store import ModelStore, StoredVariant
from tests.model.test_heads import MB, MODEL, link, pool_of, store_in


def test_each_answer_beside_slows_one_job_more(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store = store_in(tmp_path, embedded_store)
    link(smollm2, store)

    async def body() -> None:
        async with pool_of(store, 900 * MB) as pool, pool.lease(MODEL) as resident:
            local = resident.whole
            assert (local.settings.sequences, await measure_beside(resident)) == (1, ())
            local.settings = replace(local.settings, sequences=4)
            found = await measure_beside(resident)
            assert len(found) == 3
            assert all(1 <= each.prompt < 100 and 1 <= each.answer < 100 for each in found)
            times = await local.time_batches([1, 64], past=64)
            assert 0 < times[0] < times[1]

    asyncio.run(body())

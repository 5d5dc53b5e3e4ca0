"""Kept cells that a real worker refuses: they cost their evaluation, and nothing else."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence

import pytest

from edgeagent.execution.keeping import Cells
from edgeagent.execution.kvstore.store import KvLimits, KvStore
from edgeagent.execution.local import Evaluated, LocalModel
from edgeagent.model.store import StoredVariant
from tests.execution.test_batching import FREE, generations_for, settings_for, tokens_of

REST_S = 0.6


def put_wrong_rows(store: KvStore, cells: Cells, tokens: Sequence[int]) -> None:
    """Rows of a cache of half the width, as if they were those of `tokens`."""
    planes = [row_bytes // 2 for row_bytes in cells.planes]
    descriptor = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, len(tokens) * sum(planes))
    store.add(cells.key, cells.symbols(tokens, ()), 0, descriptor, planes)


def test_kept_cells_of_another_geometry_are_refused_forgotten_and_evaluated(
    smollm2: StoredVariant, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        store = KvStore(None, KvLimits(2**28, 0), time.time)
        model, plain = (LocalModel(settings_for(smollm2, FREE, 1), store=kept) for kept in (store, None))
        try:
            (generation,) = await generations_for(model, 1)
            assert len(generation.prompt) > 32
            facts = await model.facts()
            cells = Cells(facts.exact_key, facts.kv_planes, 64, is_free=True)
            put_wrong_rows(store, cells, generation.prompt)
            pid = model.pid
            with caplog.at_level(logging.WARNING):
                said = await tokens_of(model, generation)
            assert model.pid == pid
            assert said == await tokens_of(plain, generation)
            told = [vars(record) for record in caplog.records if "refused" in record.getMessage()]
            assert [record["cells"] for record in told] == [len(generation.prompt)], (store.stats(), caplog.text)
            await asyncio.sleep(REST_S)
            assert store.covered(cells.key, cells.symbols(generation.prompt, said)) >= len(generation.prompt)
            await model.close()  # the next worker gets the right cells
            async with contextlib.aclosing(model.generate(generation)) as events:
                first = await anext(events)
            assert isinstance(first, Evaluated)
            assert first.reused == len(generation.prompt) - 1
        finally:
            await model.close()
            await plain.close()
            store.close()

    asyncio.run(body())

"""Layers of a model in a peer's memory: cut when they are first asked for, tried, kept, and no more than have room."""

import asyncio
import contextlib
from pathlib import Path

from edgeagent.core.stages import Cut
from edgeagent.execution.stage_trial import BATCHES
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.model.tails import Tails
from edgeagent.parts import spawn_llama
from tests.model.test_heads import LAYERS, MB, MODEL, NOTHING_REPACKED, link, pool_of, store_in


def test_layers_between_two_cuts_are_made_once_and_tried(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store = store_in(tmp_path, embedded_store)
    link(smollm2, store)

    async def body() -> None:
        async with (
            pool_of(store, 900 * MB) as pool,
            pool.lease(MODEL) as resident,
            contextlib.AsyncExitStack() as stack,
        ):
            tails = Tails(store, spawn_llama, 500 * MB, NOTHING_REPACKED)
            stack.push_async_callback(tails.close)
            assert await tails.most_between(resident) == LAYERS - 2
            card, variant = resident.card.id, resident.variant.name
            assert tails.loaded(card, variant) == ()
            guessed_s = [tails.making_s(card, variant, rate) for rate in (5.0, 100.0)]
            assert guessed_s[0] > 10 * guessed_s[1] / 2 > 10
            async with tails.lease(resident, 8, 19) as stage:
                assert stage.cut == Cut.of(8, 19, LAYERS)
                assert stage.padding is not None
                assert stage.settings.draft_rows in BATCHES
            async with tails.lease(resident, 8, 19) as again:
                assert again is stage
            assert tails.loaded(card, variant) == ((8, 19),)
            assert tails.loaded(card, "another") == ()
            assert 0 < tails.making_s(card, variant, 1e-6) < 1e6  # measured now, not guessed
            small = Tails(store, spawn_llama, 120 * MB, NOTHING_REPACKED)
            few = await small.most_between(resident)
            assert 0 <= few < LAYERS - 2
            assert await Tails(store, spawn_llama, MB, NOTHING_REPACKED).most_between(resident) == 0

    asyncio.run(body())

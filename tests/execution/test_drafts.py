"""Drafts through the worker: they outlive no worker, and end where somebody else decodes."""

import asyncio
import contextlib
import os
import random
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.execution.executors import LocalExecutor, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.local import LocalModel
from tests.execution.test_batching import settings_for

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

FREE = Invariance(decode_batch=4, draft_batch=32, free_prefill=True, rewind=True)
ROWS = "Copy this list twice: " + ", ".join(f"row {n} holds {n} apples" for n in range(12))


async def generation_for(model: LocalModel, sampling: Sampling, max_tokens: int = 48) -> Generation:
    prompt = await model.encode([{"role": "user", "content": ROWS}])
    return Generation("g", model.settings.variant_sha256, prompt, sampling, max_tokens)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, seed=4)], ids=["greedy", "drawn"])
def test_killed_worker_leaves_a_journal_of_accepted_tokens_only(smollm2: "StoredVariant", sampling: Sampling) -> None:
    async def body() -> None:
        model = LocalModel(replace(settings_for(smollm2, FREE, sequences=1), threads=1))
        plain = LocalModel(replace(model.settings, speculation=False))
        try:
            whole = await _tokens(plain, await generation_for(plain, sampling))
            assert await _tokens(model, await generation_for(model, sampling)) == whole
            for at in random.Random(7).sample(range(2, len(whole) - 1), 2):
                assert await _tokens(model, await generation_for(model, sampling), kill_at=at) == whole
        finally:
            await plain.close()
            await model.close()

    asyncio.run(body())


async def _tokens(model: LocalModel, generation: Generation, kill_at: int | None = None) -> list[int]:
    found: list[int] = []
    async with contextlib.aclosing(complete(generation, [LocalExecutor(model, Traffic())] * 2)) as steps:
        async for step in steps:
            if not isinstance(step, TokenStep):
                continue
            found.append(step.token)
            if len(found) == kill_at:
                assert model.pid is not None
                os.kill(model.pid, signal.SIGKILL)
    return found


def test_answers_side_by_side_are_those_of_plain_decoding(smollm2: "StoredVariant") -> None:
    async def body() -> None:
        model = LocalModel(replace(settings_for(smollm2, FREE), threads=1))
        plain = LocalModel(replace(model.settings, speculation=False, sequences=1))
        samplings = [Sampling(), Sampling(temperature=0.8, seed=2), Sampling(temperature=0.4, seed=3)]
        try:
            generations = [await generation_for(model, s, 12 + 20 * i) for i, s in enumerate(samplings)]
            alone = [await _tokens(plain, g) for g in generations]
            assert await asyncio.gather(*(_tokens(model, g) for g in generations)) == alone
        finally:
            await plain.close()
            await model.close()

    asyncio.run(body())

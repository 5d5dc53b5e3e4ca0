"""Threads and rests change in the middle of an answer of the real model, and its words do not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.execution.llama.pace import NAP_S, Pace
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS

QUESTION = "Tell me a short story about a lighthouse, a storm and a brave cat. " * 3
Turn = Callable[[LocalModel, int], Awaitable[None]]


async def words(model: LocalModel, at_token: Turn) -> list[int]:
    prompt = await model.encode([{"role": "user", "content": QUESTION}])
    sampling = Sampling(temperature=0.8, seed=5)
    generation = Generation("test", model.settings.variant_sha256, prompt, sampling, 12)
    tokens: list[int] = []
    async with contextlib.aclosing(model.generate(generation)) as events:
        async for event in events:
            if isinstance(event, TokenStep):
                tokens.append(event.token)
                await at_token(model, len(tokens))
    return tokens


def test_threads_and_rests_changed_at_a_token_leave_the_answer_identical(smollm2: StoredVariant) -> None:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 1024, "q8_0", flash_attention=True, threads=2, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip
    paces = {1: (1, 1.0), 4: (2, 0.5), 7: (1, 0.5), 10: (2, 1.0)}

    async def as_it_is(model: LocalModel, at: int) -> None:
        return None

    async def changing(model: LocalModel, at: int) -> None:
        if at in paces:
            await model.set_pace(*paces[at])

    async def body() -> None:
        model = LocalModel(settings)
        try:
            whole = await words(model, as_it_is)
            await model.close()
            assert await words(model, changing) == whole
            await model.set_pace(1, 1.0)
            await model.close()  # the next worker starts with that pace
            assert await words(model, as_it_is) == whole
        finally:
            await model.close()

    asyncio.run(body())


def test_rest_is_owed_in_proportion_and_paid_in_short_naps() -> None:
    pace = Pace()
    pace.worked(10.0)
    assert not pace.rested()
    pace.set_duty(0.5)
    pace.worked(2.5 * NAP_S)
    naps = 0
    while pace.rested():
        naps += 1
    assert naps == 3

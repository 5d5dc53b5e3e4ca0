"""Work in quiet times: what it makes, that requests end it, that it sleeps otherwise."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.idle import IdleWork
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.rolling import cuts
from edgeagent.execution.embedding import Encoder
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.test_ladder import talk, with_memory

FACT = "My sister Clara lives in Lisbon, in a blue house by the river."


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await holds():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.05)


def test_old_turns_are_summed_up_and_texts_measured_once_it_is_quiet(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    messages = talk(5)

    async def use(_answerer: Answerer, resident: Resident, memory: Memory) -> None:
        await resident.whole.facts()
        await memory.add("ann", FACT)
        idle = IdleWork(SimpleNamespace(residents=[resident]), memory, quiet_s=0.01)
        work = asyncio.create_task(idle.run())
        idle.note("ann", messages)

        async def is_done() -> bool:
            return bool(await memory.summary("ann", cuts(messages)[0].key)) and not await memory.unmeasured(1)

        await until(is_done)
        [measure] = await memory.measures("ann", [FACT])
        assert measure
        assert len(measure.bits) == len(FACT.split())
        assert measure.num_tokens >= len(FACT.split())
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with_memory(smollm2, encoder, tmp_path, use)


def test_a_request_ends_the_spell_which_goes_on_after_it(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(_answerer: Answerer, resident: Resident, memory: Memory) -> None:
        await resident.whole.facts()
        document = "\n\n".join(f"# Part {n}\n\n{FACT} It has {n} windows." for n in range(40))
        num_texts = len(await memory.add_document("ann", document, "house.md"))
        idle = IdleWork(SimpleNamespace(residents=[resident]), memory, quiet_s=0.01)
        work = asyncio.create_task(idle.run())
        idle.note("ann", ())

        async def has_begun() -> bool:
            return 0 < len(await memory.unmeasured(num_texts)) < num_texts

        async def is_free() -> bool:
            return resident.local.num_waiting == 0

        async def is_done() -> bool:
            return not await memory.unmeasured(1)

        await until(has_begun)
        with idle.disturbed():
            await until(is_free)
            await asyncio.sleep(0.2)  # it has long been quiet, and a request still waits for its model
            assert resident.local.num_waiting == 0
            assert await memory.unmeasured(1)
        await until(is_done)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with_memory(smollm2, encoder, tmp_path, use)

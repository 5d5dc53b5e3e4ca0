"""Work in quiet times: what it makes, that requests end it, that it sleeps otherwise."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.idle import MAX_CONVERSATIONS, IdleWork
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.rolling import cuts
from edgeagent.core.errors import BusyError
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.model.governing import Governing
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.memory.test_forgetting import content_of
from tests.agent.test_ladder import talk, with_memory
from tests.model.test_governing import ZONE, OneModel, governing, put
from tests.talk import TALK

FACT = "My sister Clara lives in Lisbon, in a blue house by the river."


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await holds():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.05)


async def long_observed(governor: Governing) -> None:
    """Until heat has been let go and the battery has been read again: readings are three seconds apart here."""
    for _ in range(30):
        await governor.observe()


def test_old_turns_are_summed_up_and_texts_measured_once_it_is_quiet(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    messages = talk(5)

    async def use(_answerer: Answerer, resident: Resident, memory: Memory) -> None:
        await resident.whole.facts()
        await memory.add("ann", FACT, "turn")
        await memory.add("ann", "Clara has a cat.")
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
        assert await memory.measures("ann", ["Clara has a cat."]) == (None,)  # no reduction would read it
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


def test_what_was_forgotten_is_not_brought_back_by_a_summary_of_the_same_conversation(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(_answerer: Answerer, resident: Resident, memory: Memory) -> None:
        await resident.whole.facts()
        messages = talk(5)
        other = tuple(m.model_copy(update={"content": m.content.replace("Hagen", "Otto")}) for m in messages)
        seen = await memory.forgettings("ann")
        idle = IdleWork(SimpleNamespace(residents=[resident]), memory, quiet_s=0.01)
        idle.note("ann", messages, seen)
        await memory.forget("ann", await memory.add("ann", "The miller was called Hagen."))
        idle.note("bob", other, seen)
        work = asyncio.create_task(idle.run())

        async def is_done() -> bool:
            return await memory.summary("bob", cuts(other)[0].key) is not None

        await until(is_done)
        assert await memory.list("ann") == []
        assert b"Hagen" not in content_of(tmp_path)
        await memory.forget("bob", (await memory.list("bob"))[0].id)
        idle.note("bob", other, seen)  # the client goes on with it
        idle.note("ann", other, await memory.forgettings("ann"))  # told again, after it was forgotten

        async def is_made_again() -> bool:
            return await memory.summary("ann", cuts(other)[0].key) is not None

        await until(is_made_again)
        assert await memory.list("bob") == []
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with_memory(smollm2, encoder, tmp_path, use)


def test_nothing_is_begun_while_the_machine_is_hot_or_runs_on_its_battery(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(_answerer: Answerer, resident: Resident, memory: Memory) -> None:
        await resident.whole.facts()
        await memory.add("ann", FACT, "turn")
        governor = governing(tmp_path, OneModel(resident))
        put(tmp_path, f"{ZONE}/type", "cpu-thermal")
        asked: list[str | None] = []

        async def hindrance() -> str | None:
            asked.append(await governor.idle_hindrance())
            return asked[-1]

        idle = IdleWork(SimpleNamespace(residents=[resident]), memory, hindrance, quiet_s=0.01, put_off_s=0.01)
        work = asyncio.create_task(idle.run())

        async def was_put_off() -> bool:
            return len(asked) > 3

        async def is_done() -> bool:
            return not await memory.unmeasured(1)

        for temperature, battery in (("79500", "Charging"), ("79500", "Discharging"), ("40000", "Discharging")):
            put(tmp_path, f"{ZONE}/temp", temperature)
            put(tmp_path, "sys/class/power_supply/BAT0/type", "Battery")
            put(tmp_path, "sys/class/power_supply/BAT0/capacity", "90")
            put(tmp_path, "sys/class/power_supply/BAT0/status", battery)
            await long_observed(governor)
            idle.note("ann", ())
            asked.clear()
            await until(was_put_off)
            assert all(asked), temperature
            assert await memory.unmeasured(1)
        put(tmp_path, "sys/class/power_supply/BAT0/status", "Charging")
        await long_observed(governor)
        await until(is_done)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with_memory(smollm2, encoder, tmp_path, use)


def test_only_so_much_waits_in_memory_to_be_summed_up(encoder: Encoder, tmp_path: Path) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        memory = await Memory.open(tmp_path / "memory.sqlite", OnnxEmbedder(locate, 384), lambda: 1.7e9)
        idle = IdleWork(SimpleNamespace(residents=[]), memory)
        large = tuple(m.model_copy(update={"content": m.content * 800}) for m in talk(5))
        idle.note("ann", talk(5))
        idle.note("bob", large)
        assert idle.num_noted == 0
        for number in range(12):
            idle.note(f"user{number}", talk(5))
        assert idle.num_noted == MAX_CONVERSATIONS
        await memory.close()

    asyncio.run(body())


def test_sessions_are_summed_up_between_requests_and_not_on_a_battery(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(_answerer: Answerer, resident: Resident, memory: Memory) -> None:
        for text in TALK:
            await memory.add("ann", text, "turn", "monday")
        put(tmp_path, "sys/class/power_supply/BAT0/type", "Battery")
        put(tmp_path, "sys/class/power_supply/BAT0/capacity", "90")
        put(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging")
        governor = governing(tmp_path, OneModel(resident))
        idle = IdleWork(SimpleNamespace(residents=[resident]), memory, governor.idle_hindrance)

        @contextlib.asynccontextmanager
        async def lease() -> AsyncIterator[Resident]:
            yield resident

        with pytest.raises(BusyError, match="runs on its battery"):
            await idle.reflect("ann", 1, lease)
        assert not resident.is_loaded
        put(tmp_path, "sys/class/power_supply/BAT0/status", "Charging")
        await long_observed(governor)
        work = asyncio.create_task(idle.reflect("ann", 3, lease))

        async def has_begun() -> bool:
            return resident.local.num_waiting > 0

        async def is_free() -> bool:
            return resident.local.num_waiting == 0

        await until(has_begun)
        with idle.disturbed():
            await until(is_free)
            await asyncio.sleep(0.2)
            assert resident.local.num_waiting == 0
            assert await memory.list("ann", kind="summary") == []
        [id_] = await work
        assert [item.id for item in await memory.list("ann", kind="summary")] == [id_]
        assert await idle.reflect("ann", 3, lease) == []

    with_memory(smollm2, encoder, tmp_path, use)

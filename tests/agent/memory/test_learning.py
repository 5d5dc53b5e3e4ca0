"""Facts, skills and experiences through the facade, with the real embedding model."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from edgeagent.agent.memory import portable
from edgeagent.agent.memory.learning import Learning
from edgeagent.agent.memory.memory import Memory
from edgeagent.core.errors import NotFoundError, RequestError
from edgeagent.core.memory import MemoryItem, Record

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]
STEPS = ("Close the valve.", "Drain the pump.", "Fill in citric acid.")


def test_recall_gives_the_fact_that_holds(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            learn = Learning(memory)
            await learn.fact("ann", "Clara", "lives in", "Lisbon", "told in June")
            new = await learn.fact("ann", " clara ", "Lives  in", "Porto", "told in July")
            await memory.add("ann", "The boiler's service code is QX-4471.")
            hits = await memory.search("ann", "Where does Clara live?", k=10)
            assert [hit.item.id for hit in hits if hit.item.kind == "fact"] == [new]
            known = await learn.facts("ann", "Clara", "lives in")
            assert [(i.record.body, i.source) for i in known if i.record] == [
                ("Lisbon", "told in June"),
                ("Porto", "told in July"),
            ]
            assert await learn.facts("bob", "Clara", "lives in") == ()

    asyncio.run(body())


def test_skill_is_found_by_its_purpose_and_called_by_its_name(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            learn = Learning(memory)
            await learn.skill("ann", "Descale the pump", "when the pump gets loud", STEPS[:2])
            id_ = await learn.skill("ann", "descale the pump", "when the pump gets loud", STEPS)
            found = await learn.procedure("ann", "Descale the pump")
            assert (found.id, found.record and found.record.body.split("\n")) == (id_, list(STEPS))
            [hit] = await memory.search("ann", "The pump is noisy, what can I do?", k=1)
            assert hit.item.id == id_
            assert "3. Fill in citric acid." in hit.item.text
            with pytest.raises(NotFoundError, match="no skill 'fly'"):
                await learn.procedure("ann", "fly")
            with pytest.raises(RequestError, match="no steps"):
                await learn.skill("ann", "fly", "to be elsewhere", ())

    asyncio.run(body())


def test_experience_that_was_judged_well_comes_first(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            learn = Learning(memory)
            bad = await learn.experience("ann", "the printer is offline", "restart the router", "nothing changed")
            good = await learn.experience("ann", "the printer is offline", "restart the printer", "it printed again")
            await memory.add("ann", "The printer is in the hall.")
            await memory.judge("ann", bad, is_good=False)
            await memory.judge("ann", good, is_good=True)
            hits = await learn.experiences("ann", "the printer is offline again")
            assert [hit.item.id for hit in hits] == [good, bad]
            assert hits[1].score == 0.0

    asyncio.run(body())


def test_export_carries_records_and_their_history(open_memory: OpenMemory, tmp_path: Path) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            learn = Learning(memory)
            for city in ("Lisbon", "Porto", "Lisbon"):
                await learn.fact("ann", "Clara", "lives in", city)
            await memory.judge("ann", await learn.skill("ann", "Sing", "in the bath", ("La",)), is_good=True)
            lines = [line async for line in portable.lines(memory.export("ann"))]
            items = [item async for item in memory.export("ann")]
        async with open_memory(tmp_path / "other.sqlite") as other:
            parsed = list(portable.parse(lines, "backup"))
            assert (await other.import_("eve", parsed)).added == 4
            assert (await other.import_("eve", parsed)).added == 0
            copies = [item async for item in other.export("eve")]
            assert [(i.text, i.record) for i in copies] == [(i.text, i.record) for i in items]
            hits = await other.search("eve", "Where does Clara live?", k=10)
            assert [hit.item.text for hit in hits if hit.item.kind == "fact"] == ["Clara lives in Lisbon"]

    asyncio.run(body())


def test_tidy_forgets_repetitions_and_what_has_faded(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            first = await memory.add("ann", "The pump was descaled in May.")
            await memory.add("ann", "the pump was descaled, in May")
            turns = [await memory.add("ann", f"Ann: number {i}", "turn", at=1e9 + i) for i in range(4)]
            seen = await memory.tidy("ann", 3, only_look=True)
            assert (await memory.stats("ann")).memories == 6
            done = await memory.tidy("ann", 3)
            assert len(done.repeated) == len(seen.repeated) == 1
            assert done.faded == tuple(turns[:2])
            assert {item.id for item in await memory.list("ann")} >= {*turns[2:]}
            assert (await memory.stats("ann")).memories == 3
            assert first in {*done.repeated, *done.repeated.values()}

    asyncio.run(body())


def test_correction_is_found_by_its_new_words(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            id_ = await memory.add("ann", "My sister lives in Lisbon.", source="chat")
            await memory.correct("ann", id_, "My sister lives in Porto.")
            [hit] = await memory.search("ann", "Porto", k=1)
            assert (hit.item.id, hit.item.text, hit.item.source) == (id_, "My sister lives in Porto.", "chat")
            with pytest.raises(NotFoundError):
                await memory.correct("bob", id_, "mine")
            fact = await Learning(memory).fact("ann", "the code", "is", "1234")
            with pytest.raises(RequestError, match="add it anew"):
                await memory.correct("ann", fact, "the code is 9")

    asyncio.run(body())


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_record_without_a_proper_name_is_a_request_error(open_memory: OpenMemory, name: str) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError):
                await Learning(memory).fact("ann", name, "is", "x")
            with pytest.raises(RequestError):
                await Learning(memory).experience("ann", name, "did", "well")

    asyncio.run(body())


HOSTILE = ("'; DROP TABLE records; --", 'x" OR 1=1 --', "a\x00b", "%", "\x1f", "NEAR(a b)", "🦜", "ﬁ ß İ")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_name_is_only_a_name(open_memory: OpenMemory, name: str) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            learn = Learning(memory)
            await learn.fact("ann", "Clara", "lives in", "Lisbon")
            if name.strip():
                id_ = await learn.fact("ann", name, name, name, name)
                assert [item.id for item in await learn.facts("ann", name, name)] == [id_]
                assert await learn.facts("bob", name, name) == ()
            for work in (memory.forget("ann", name), memory.correct("ann", name, "x"), learn.procedure("ann", name)):
                with pytest.raises(NotFoundError):
                    await work
            with pytest.raises(NotFoundError):
                await memory.judge("ann", name, is_good=True)
            assert [item.text for item in await learn.facts("ann", "clara", "lives in")] == ["Clara lives in Lisbon"]

    asyncio.run(body())


def test_what_is_no_unicode_is_a_request_error(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            learn = Learning(memory)
            calls = (
                learn.fact("ann", "\ud800", "is", "x"),
                learn.facts("ann", "\ud800", "is"),
                learn.skill("ann", "x", "y", ("\ud800",)),
                learn.procedure("ann", "\ud800"),
                memory.forget("ann", "\ud800"),
                memory.correct("ann", "\ud800", "x"),
                memory.judge("ann", "\ud800", is_good=True),
            )
            for call in calls:
                with pytest.raises(RequestError, match="not valid Unicode"):
                    await call
            assert await memory.list("ann") == []

    asyncio.run(body())


def test_ids_of_another_user_or_agent_are_unknown(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            id_ = await Learning(memory).fact("ann", "the code", "is", "1234")
            note = await memory.add("ann", "Salt is on the left.")
            for other in ("bob", "ann/cook", "ann.phone"):
                for work in (
                    memory.forget(other, id_),
                    memory.forget(other, note),
                    memory.correct(other, note, "mine"),
                ):
                    with pytest.raises(NotFoundError):
                        await work
                with pytest.raises(NotFoundError):
                    await memory.judge(other, id_, is_good=False)
                assert (await memory.tidy(other, 0)).faded == ()
                assert await memory.search(other, "code") == []
            assert {item.id for item in await memory.list("ann")} == {id_, note}

    asyncio.run(body())


@pytest.mark.parametrize(
    "change",
    [{"topic": ""}, {"body": "x" * 70_000}, {"body": "\ud800"}, {"valid_until": float("inf")}],
)
def test_import_of_a_malformed_record_is_a_request_error(open_memory: OpenMemory, change: dict[str, object]) -> None:
    record = Record(topic="t", body="b", valid_from=0.0).model_copy(update=change)
    item = MemoryItem(id="x", user="ann", kind="fact", text="t", source="", created_at=0.0, record=record)

    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError):
                await memory.import_("ann", [item])
            assert await memory.list("ann") == []

    asyncio.run(body())


def test_what_is_told_now_holds_although_the_clock_has_jumped_back(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory(step=-3600) as memory:
            learn = Learning(memory)
            for place in ("Lisbon", "Porto", "Faro"):
                await learn.fact("ann", "Clara", "lives in", place)
            for steps in (STEPS[:2], STEPS):
                await learn.skill("ann", "descale", "the pump is loud", steps)
            known = await learn.facts("ann", "Clara", "lives in")
            assert [(i.record.body, i.record.valid_until is None) for i in known if i.record] == [
                ("Lisbon", False),
                ("Porto", False),
                ("Faro", True),
            ]
            found = await learn.procedure("ann", "descale")
            assert found.record
            assert found.record.body.split("\n") == list(STEPS)

    asyncio.run(body())

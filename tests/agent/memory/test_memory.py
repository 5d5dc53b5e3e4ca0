"""The memory facade with the real model."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from edgeagent.agent.memory import portable
from edgeagent.agent.memory.memory import MAX_TEXT_BYTES, PAGE, Imported, Memory
from edgeagent.core.errors import NotFoundError, RequestError
from edgeagent.core.memory import MemoryItem

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]

FACTS = (
    "My sister Clara lives in Lisbon.",
    "The boiler's service code is QX-4471.",
    "I am allergic to peanuts.",
    "The garden hose is in the shed behind the garage.",
    "Our wifi network is called Nimbus.",
)


async def exported(memory: Memory, user: str) -> list[MemoryItem]:
    return [item async for item in memory.export(user)]


def test_search_finds_by_meaning_and_by_rare_word(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            ids = [await memory.add("ann", text) for text in FACTS]
            by_meaning = await memory.search("ann", "What food is dangerous for me?", k=3)
            by_word = await memory.search("ann", "QX-4471", k=3)
            assert by_meaning[0].item.id == ids[2]
            assert by_word[0].item.id == ids[1]
            for hits in (by_meaning, by_word):
                scores = [hit.score for hit in hits]
                assert len(hits) == 3
                assert scores == sorted(scores, reverse=True)
                assert 0 < scores[-1] <= scores[0] <= 1

    asyncio.run(body())


def test_users_never_see_each_other(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            secret = await memory.add("bob", FACTS[2])
            own = await memory.add("ann", FACTS[0])
            shared = await memory.add("ann", FACTS[2])
            assert shared != secret
            for k in (1, 100):
                found = await memory.search("ann", FACTS[2], k=k)
                assert {hit.item.user for hit in found} == {"ann"}
            assert {item.id for item in await memory.list("ann")} == {own, shared}
            assert (await memory.stats("ann")).memories == 2
            assert [item.id for item in await exported(memory, "bob")] == [secret]
            with pytest.raises(NotFoundError, match=secret):
                await memory.forget("ann", secret)
            assert [item.id for item in await memory.list("bob")] == [secret]
            assert await memory.search("carol", FACTS[2]) == []

    asyncio.run(body())


def test_add_known_text_returns_its_id_and_stores_nothing(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            first = await memory.add("ann", FACTS[0], "turn", "chat")
            assert await memory.add("ann", f"  {FACTS[0]}\n") == first
            [item] = await memory.list("ann")
            assert (item.kind, item.source, item.created_at) == ("turn", "chat", 1_700_000_000.0)

    asyncio.run(body())


def test_forgotten_memory_is_in_no_answer(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            ids = [await memory.add("ann", text) for text in FACTS]
            await memory.forget("ann", ids[1])
            assert ids[1] not in {hit.item.id for hit in await memory.search("ann", "QX-4471 boiler", k=100)}
            assert ids[1] not in {item.id for item in await memory.list("ann")}
            with pytest.raises(NotFoundError):
                await memory.forget("ann", ids[1])
            assert await memory.add("ann", FACTS[1]) != ids[1]

    asyncio.run(body())


def test_add_document_stores_its_chunks_once(open_memory: OpenMemory) -> None:
    text = "\n\n".join(f"Paragraph {i} tells about valve {i}. " + "It is long enough. " * 20 for i in range(6))

    async def body() -> None:
        async with open_memory() as memory:
            ids = await memory.add_document("ann", text, "manual.txt")
            assert len(set(ids)) == len(ids) > 1
            assert await memory.add_document("ann", text, "manual.txt") == ids
            stats = await memory.stats("ann")
            assert (stats.memories, stats.documents) == (len(ids), 1)
            hits = await memory.search("ann", "valve 4", k=3)  # the paragraphs differ by their numbers alone
            assert any("valve 4" in hit.item.text for hit in hits)
            assert {(hit.item.kind, hit.item.source) for hit in hits} == {("document", "manual.txt")}

    asyncio.run(body())


def test_list_shows_newest_first_and_export_oldest(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            ids = [await memory.add("ann", text) for text in FACTS]
            assert [item.id for item in await memory.list("ann", 2)] == ids[:-3:-1]
            assert [item.id for item in await exported(memory, "ann")] == ids

    asyncio.run(body())


def test_export_imports_into_another_file_and_again_without_effect(open_memory: OpenMemory, tmp_path: Path) -> None:
    odd = 'Line\u2028separators, "quotes", \x00 and \x85 survive.'

    async def body() -> None:
        async with open_memory() as memory:
            for text in (*FACTS, odd):
                await memory.add("ann", text, source="here")
            lines = [line async for line in portable.lines(memory.export("ann"))]
        items = list(portable.parse("\n".join(lines).split("\n"), "backup"))
        async with open_memory(tmp_path / "other.sqlite") as other:
            known = await other.add("eve", FACTS[3])
            assert await other.import_("eve", items) == Imported(added=5, known=1)
            assert await other.import_("eve", items) == Imported(added=0, known=6)
            assert known in {item.id for item in await other.list("eve")}
            imported = {(i.text, i.created_at) for i in await exported(other, "eve") if i.id != known}
            assert imported == {(i.text, i.created_at) for i in items if i.text != FACTS[3]}
            [hit] = await other.search("eve", "Where does my sister live?", k=1)
            assert hit.item.text == FACTS[0]

    asyncio.run(body())


@pytest.mark.parametrize("text", ["", " \n\t", "x" * (MAX_TEXT_BYTES + 1), "é" * (MAX_TEXT_BYTES // 2 + 1), "\ud800"])
def test_add_malformed_text_is_a_request_error(open_memory: OpenMemory, text: str) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError):
                await memory.add("ann", text)
            assert await memory.list("ann") == []

    asyncio.run(body())


@pytest.mark.parametrize("user", ["", "a b", "a/b/c", "a/", "/a", "x" * 65, "ann\n", "änn"])
def test_every_method_refuses_a_malformed_user(open_memory: OpenMemory, user: str) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            item = MemoryItem(id="x", user="ann", kind="note", text="t", source="", created_at=0)
            calls: list[Callable[[], object]] = [
                lambda: memory.add(user, "t"),
                lambda: memory.add_document(user, "t", "s"),
                lambda: memory.search(user, "t"),
                lambda: memory.list(user),
                lambda: memory.forget(user, "x"),
                lambda: memory.stats(user),
                lambda: memory.import_(user, [item]),
                lambda: exported(memory, user),
            ]
            for call in calls:
                with pytest.raises(RequestError, match="no user name"):
                    await call()  # type: ignore[misc]

    asyncio.run(body())


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_search_for_a_silly_number_is_a_request_error(open_memory: OpenMemory, k: int) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError, match="1 to 1000"):
                await memory.search("ann", "anything", k)

    asyncio.run(body())


@pytest.mark.parametrize(
    "query", ['"', "AND OR NOT", "text: (", "*", "'; DROP TABLE memories; --", "?!", "word " * 9000]
)
def test_search_any_question_is_only_words(open_memory: OpenMemory, query: str) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            await memory.add("ann", FACTS[0])
            assert len(await memory.search("ann", query)) == 1

    asyncio.run(body())


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "not an export"),
        (["hello"], "not an export"),
        ([portable.HEADER, "{}"], "line 2"),
        ([portable.HEADER, "", "{broken"], "line 3"),
    ],
)
def test_parse_broken_export_names_the_line(lines: list[str], complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        list(portable.parse(lines, "backup.jsonl"))


@pytest.mark.parametrize(
    "change", [{"kind": "diary"}, {"text": " "}, {"created_at": float("nan")}, {"created_at": 1e18}]
)
def test_import_invalid_item_is_a_request_error(open_memory: OpenMemory, change: dict[str, object]) -> None:
    good = {"id": "x", "user": "ann", "kind": "note", "text": "t", "source": "", "created_at": 0.0}
    line = json.dumps(good | change)

    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError):
                await memory.import_("ann", portable.parse([portable.HEADER, line], "backup"))
            assert await memory.list("ann") == []

    asyncio.run(body())


def test_time_that_no_calendar_knows_is_refused(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError, match="no time"):
                await memory.add("ann", FACTS[0], "event", at=1e12)
            assert await memory.add("ann", FACTS[0], "event", at=-1e10)

    asyncio.run(body())


def test_export_beside_a_forgetting_tells_nothing_twice(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            ids = [await memory.add("ann", f"Room {n} has {n} windows.") for n in range(PAGE + 6)]
            told = []
            async for item in memory.export("ann"):
                told.append(item.id)
                if item.id == ids[PAGE - 1]:
                    await memory.forget("ann", item.id)
            assert told == ids

    asyncio.run(body())

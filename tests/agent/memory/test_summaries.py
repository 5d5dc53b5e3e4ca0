"""Summaries of conversations: memories that are listed, moved and forgotten, and that recall does not find."""

import asyncio
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from edgeagent.agent.memory import portable, summaries
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import NotFoundError, RequestError
from edgeagent.core.memory import Conversation
from tests.agent.memory.test_forgetting import DIMENSIONS, content_of
from tests.agent.memory.test_reflecting import reflected
from tests.talk import TALK

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]

TEXT = "The boiler is loud; Bob brings a valve."
KEYS = [bytes([n]) * 16 for n in range(4)]


def about(number: int) -> Conversation:
    return Conversation(key=KEYS[number].hex(), num_messages=2 * number + 4)


def note(text: str, kind: str = "note", source: str = "") -> NewMemory:
    return NewMemory(kind, text, source, 1e9, array("f", [1.0] * DIMENSIONS).tobytes())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    opened = MemoryStore.open(tmp_path / "memory.sqlite", DIMENSIONS)
    yield opened
    opened.close()


def test_summary_is_listed_counted_apart_and_forgotten_alone(store: MemoryStore, tmp_path: Path) -> None:
    [boiler] = store.add("ann", [note("The boiler is loud.")])
    id_, other = (store.summaries.keep("ann", about(n), f"{TEXT} {n}", 1e9 + n, 0) for n in range(2))
    assert id_
    assert other
    assert [item.id for item in store.list("ann", 10, "summary")] == [other, id_]
    assert {item.id for item in store.list("ann", 10)} == {boiler, id_, other}
    assert store.item("ann", id_).conversation == about(0)
    stats = store.stats("ann")
    assert (stats.memories, stats.summaries) == (1, 2)
    with pytest.raises(NotFoundError):
        store.forget("bob", id_)
    assert store.forget("ann", id_) == ()
    assert (store.summaries.find("ann", KEYS[0]), store.summaries.find("ann", KEYS[1])) == (None, f"{TEXT} 1")
    assert id_.encode() not in content_of(tmp_path)
    assert store.forget("ann", boiler) == (other,)
    assert store.list("ann", 10) == []
    assert b"valve" not in content_of(tmp_path)


def test_summary_is_no_memory_that_a_text_or_a_quota_meets(tmp_path: Path) -> None:
    store = MemoryStore.open(tmp_path / "memory.sqlite", DIMENSIONS, max_memories=1)
    id_ = store.summaries.keep("ann", about(0), TEXT, 1e9, 0)
    assert store.ids("ann", [TEXT]) == [None]
    [added] = store.add("ann", [note(TEXT)])
    assert added != id_
    assert store.faded("ann", 1) == ()
    assert store.unmeasured(10) == ()
    store.close()


def test_nothing_is_kept_of_what_was_said_before_something_was_forgotten(store: MemoryStore) -> None:
    [one, two] = store.add("ann", [note("one"), note("two")])
    assert store.summaries.since("ann", None, KEYS[:1]) == 0
    assert store.summaries.keep("ann", about(0), TEXT, 1e9, 0)
    store.forget("ann", one)
    assert store.summaries.keep("ann", about(1), TEXT, 1e9, 0) is None
    assert store.summaries.since("ann", None, KEYS) is None
    assert store.summaries.since("ann", 0, KEYS) is None
    assert store.summaries.since("ann", 1, KEYS) == 1
    assert store.summaries.since("bob", 0, KEYS) == 0
    assert store.summaries.keep("ann", about(2), TEXT, 1e9, 1)
    assert store.summaries.since("ann", None, KEYS) == 1  # a kept summary tells since when all was said
    corrected = NewMemory("note", "three", "", 1e9, note("").vector)
    assert len(store.correct("ann", two, corrected)) == 1
    assert store.summaries.since("ann", 1, KEYS) is None
    assert store.summaries.find("ann", KEYS[2]) is None


def test_forgettings_are_counted_without_the_users_name(store: MemoryStore, tmp_path: Path) -> None:
    [id_] = store.add("annabella", [note("one")])
    store.forget("annabella", id_)
    assert store.summaries.forgettings("annabella") == 1
    assert b"annabella" not in content_of(tmp_path)


def test_newest_summaries_stay_when_the_clock_has_jumped_back(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "MAX_SUMMARIES", 2)
    for number in range(4):
        assert store.summaries.keep("ann", about(number), f"{TEXT} {number}", 1e9 - number, 0)
    assert [store.summaries.find("ann", key) is not None for key in KEYS] == [False, False, True, True]


def test_summary_can_be_corrected_and_then_serves_its_conversation(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            id_ = await memory.keep_summary("ann", about(0), TEXT, 0)
            assert id_
            await memory.correct("ann", id_, "The boiler is quiet again.")
            assert await memory.summary("ann", KEYS[0]) == "The boiler is quiet again."
            assert await memory.search("ann", "Is the boiler quiet?", 5) == []

    asyncio.run(body())


def test_summaries_come_along_in_an_export_and_in_a_copy(open_memory: OpenMemory, tmp_path: Path) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            await memory.add("ann", TEXT)
            assert await memory.keep_summary("ann", about(0), TEXT, 0)
            lines = [line async for line in portable.lines(memory.export("ann"))]
            await memory.back_up(tmp_path / "copy.sqlite")
        for path in (tmp_path / "other.sqlite", tmp_path / "copy.sqlite"):
            async with open_memory(path) as memory:
                done = await memory.import_("ann", portable.parse(lines, "export"))
                assert done.added + done.known == 2
                assert await memory.summary("ann", KEYS[0]) == TEXT
                assert len(await memory.list("ann")) == 2
                assert len(await memory.search("ann", "boiler", 5)) == 1
                note_of_a_talk = lines[1].replace('"conversation":null', f'"conversation":{about(1).model_dump_json()}')
                with pytest.raises(RequestError, match="sums up a conversation"):
                    await memory.import_("ann", portable.parse([portable.HEADER, note_of_a_talk], "export"))

    asyncio.run(body())


def test_reflection_goes_with_its_turns_and_does_not_bring_back_what_was_forgotten(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            ids = [await memory.add("ann", text, "turn", "monday") for text in TALK]
            more = [await memory.add("ann", f"Ann: It is {n} degrees.", "turn", "monday") for n in range(3)]

            async def write(_: object) -> str:
                return "The valve costs forty zlotys."

            async def write_slowly(messages: object) -> str:
                await memory.forget("ann", ids[5])
                return await write(messages)

            [summary] = await reflected(memory, "ann", write)
            assert await memory.forget("ann", more[0]) == (summary,)
            assert await reflected(memory, "ann", write_slowly) == []
            assert b"zlotys" not in content_of(tmp_path)
            assert await reflected(memory, "ann", write) != []
            await memory.tidy("ann", keep=3)  # makes room: what tells of the faded turns stays
            assert [item.kind for item in await memory.list("ann", kind="summary")] == ["summary"]

    asyncio.run(body())


def test_list_of_an_unknown_kind_is_refused(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            with pytest.raises(RequestError, match="no kind of memory"):
                await memory.list("ann", kind="thought")

    asyncio.run(body())

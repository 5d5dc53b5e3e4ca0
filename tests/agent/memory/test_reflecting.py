"""Which sessions are summed up, and from what. The real model writes in tests/cli/test_memory_reflect.py."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.reflecting import LEAST_TURNS, MAX_READ_CHARS, Write, newest_of, reflect
from edgeagent.core.chat import Message
from tests.talk import TALK

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]


async def reflected(memory: Memory, user: str, write: Write) -> list[str]:
    return [id_ async for id_ in reflect(memory, user, write)]


async def talked(memory: Memory, user: str, source: str, texts: tuple[str, ...] = TALK) -> None:
    for text in texts:
        await memory.add(user, text, "turn", source)


def test_only_long_sessions_of_the_same_user_are_summed_up(open_memory: OpenMemory) -> None:
    asked: list[Sequence[Message]] = []

    async def write(messages: Sequence[Message]) -> str:
        asked.append(messages)
        return "See you." if len(asked) == 1 else f"  It is\nsummary number {len(asked)} "

    async def body() -> None:
        async with open_memory() as memory:
            await talked(memory, "ann", "short", TALK[: LEAST_TURNS - 1])
            await talked(memory, "bob", "monday")
            assert await reflected(memory, "ann", write) == []
            assert asked == []
            assert await reflected(memory, "bob", write) == []  # it went on with the conversation
            [id_] = await reflected(memory, "bob", write)
            [item] = [item for item in await memory.list("bob") if item.id == id_]
            assert (item.text, item.kind, item.source) == ("It is summary number 2", "summary", "summary of monday")
            assert await reflected(memory, "bob", write) == []
            assert [text for text in TALK if text not in asked[0][-1].content] == []

    asyncio.run(body())


def test_end_of_a_long_session_is_read_in_whole_turns() -> None:
    texts = [f"Ann: {i} " + "word " * 50 for i in range(100)]
    newest = newest_of(texts)
    assert newest == texts[-len(newest) :]
    assert MAX_READ_CHARS - len(texts[-1]) - 1 <= len("\n".join(newest)) <= MAX_READ_CHARS
    assert newest_of(["x" * 10 * MAX_READ_CHARS]) == ["x" * MAX_READ_CHARS]

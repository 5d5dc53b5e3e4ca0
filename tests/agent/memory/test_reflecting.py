"""Which sessions are summed up, and from what. The real model writes in tests/cli/test_memory_reflect.py."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.reflecting import LEAST_TURNS, MAX_CHARS, prompt_of, reflect
from tests.talk import TALK

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]


async def talked(memory: Memory, user: str, source: str, texts: tuple[str, ...] = TALK) -> None:
    for text in texts:
        await memory.add(user, text, "turn", source)


def test_only_long_sessions_of_the_same_user_are_summed_up(open_memory: OpenMemory) -> None:
    asked: list[str] = []

    async def write(prompt: str) -> str:
        asked.append(prompt)
        return "" if len(asked) == 1 else f"  summary\n{len(asked)} "

    async def body() -> None:
        async with open_memory() as memory:
            await talked(memory, "ann", "short", TALK[: LEAST_TURNS - 1])
            await talked(memory, "bob", "monday")
            assert await reflect(memory, "ann", write) == []
            assert asked == []
            assert await reflect(memory, "bob", write) == []  # an empty answer is no summary
            [id_] = await reflect(memory, "bob", write)
            [item] = [item for item in await memory.list("bob") if item.id == id_]
            assert (item.text, item.kind, item.source) == ("summary 2", "summary", "summary of monday")
            assert await reflect(memory, "bob", write) == []
            assert asked[0].count("\n") == len(TALK) + 1

    asyncio.run(body())


def test_prompt_holds_the_end_of_a_long_session_in_whole_turns() -> None:
    texts = [f"Ann: {i} " + "word " * 50 for i in range(100)]
    prompt = prompt_of(texts)
    assert len(prompt) < MAX_CHARS + 200
    assert prompt.endswith(texts[-1])
    assert "Ann: 0 " not in prompt
    assert len(prompt_of(["x" * 10 * MAX_CHARS])) < MAX_CHARS + 200

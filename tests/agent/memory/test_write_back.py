"""What a turn leaves behind without being told to."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.notebook import TOLD, Notebook

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]


def test_what_a_user_tells_is_remembered_once_and_not_when_the_turn_saved_something(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            first = Notebook(memory)
            await first.write_back("ann", "My sister Clara lives in Lisbon. Where is that?")
            [item] = await memory.list("ann")
            assert (item.text, item.kind, item.source) == ("My sister Clara lives in Lisbon.", "turn", TOLD)
            assert first.written == [item.id]
            again = Notebook(memory)
            await again.write_back("ann", "My sister Clara lives in Lisbon.")
            assert again.written == []
            saving = Notebook(memory)
            await saving.add("ann", "The key is under the mat.", "note", "")
            await saving.write_back("ann", "Remember that my key is under the mat.")
            assert len(saving.written) == 1
            assert await memory.list("bob") == []

    asyncio.run(body())

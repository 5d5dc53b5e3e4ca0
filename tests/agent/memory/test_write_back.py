"""What a turn leaves behind without being told to."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.notebook import TOLD, Notebook
from edgeagent.core.events import Finished, Usage
from edgeagent.core.plan import AnswerReport, PlanKind

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


def test_a_memory_that_takes_no_more_costs_what_was_told_and_not_the_answer(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory(max_memories=1) as memory:
            notebook = Notebook(memory)
            await notebook.write_back("ann", "My sister Clara lives in Lisbon. My brother Emil lives in Oslo.")
            report = AnswerReport(plan=PlanKind.LOCAL, model="m", variant="v", why="", seed=0)
            told = notebook.reported(Finished("stop", Usage(1, 1), report))
            assert isinstance(told, Finished)
            assert len(told.report.memory.written) == len(await memory.list("ann")) == 1
            assert "memory tidy" in told.report.notes[-1]

    asyncio.run(body())

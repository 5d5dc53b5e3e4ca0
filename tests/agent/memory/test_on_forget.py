"""Others keep what a memory said, too: they are told when it is forgotten."""

import asyncio

import pytest

from edgeagent.core.errors import MemoryStoreError, NotFoundError
from tests.agent.memory.conftest import OpenMemory


def test_told_once_for_each_that_is_gone_and_never_for_nothing(open_memory: OpenMemory) -> None:
    told: list[str] = []

    async def body() -> None:
        async with open_memory(on_forget=lambda: told.append("forgotten")) as memory:
            first = await memory.add("ann", "The spare key is with Mr Lindqvist.")
            second = await memory.add("ann", "The boiler was serviced in May.")
            assert told == []
            await memory.correct("ann", second, "The boiler was serviced in June.")
            assert len(told) == 1
            await memory.forget("ann", first)
            assert len(told) == 2
            with pytest.raises(NotFoundError):
                await memory.forget("ann", first)
            await memory.add("ann", "Ann: It rained on Sunday.", kind="turn")
            await memory.tidy("ann")
            await memory.tidy("ann", keep=0, only_look=True)
            assert len(told) == 2
            await memory.tidy("ann", keep=0)
            assert len(told) == 3

    asyncio.run(body())


def test_what_others_cannot_forget_is_an_error_and_the_memory_is_gone(open_memory: OpenMemory) -> None:
    def refuse() -> None:
        raise MemoryStoreError("prompts with it are kept")

    async def body() -> None:
        async with open_memory(on_forget=refuse) as memory:
            id_ = await memory.add("ann", "The spare key is with Mr Lindqvist.")
            with pytest.raises(MemoryStoreError, match="prompts with it are kept"):
                await memory.forget("ann", id_)
            assert await memory.list("ann") == []

    asyncio.run(body())

"""Others keep what a memory said, too: they are told when it is forgotten."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.agent.memory.memory import Memory
from edgeagent.core.errors import MemoryStoreError, NotFoundError
from edgeagent.execution.embedding import Encoder, OnnxEmbedder


def test_told_once_for_each_that_is_gone_and_never_for_nothing(encoder: Encoder, tmp_path: Path) -> None:
    told: list[str] = []

    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        embedder = OnnxEmbedder(locate, 384)
        memory = await Memory.open(
            tmp_path / "memory.sqlite", embedder, lambda: 1.7e9, on_forget=lambda: told.append("forgotten")
        )
        try:
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
        finally:
            await memory.close()
            await embedder.close()

    asyncio.run(body())


def test_what_others_cannot_forget_is_an_error_and_the_memory_is_gone(encoder: Encoder, tmp_path: Path) -> None:
    def refuse() -> None:
        raise MemoryStoreError("prompts with it are kept")

    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        embedder = OnnxEmbedder(locate, 384)
        memory = await Memory.open(tmp_path / "memory.sqlite", embedder, lambda: 1.7e9, on_forget=refuse)
        try:
            id_ = await memory.add("ann", "The spare key is with Mr Lindqvist.")
            with pytest.raises(MemoryStoreError, match="prompts with it are kept"):
                await memory.forget("ann", id_)
            assert await memory.list("ann") == []
        finally:
            await memory.close()
            await embedder.close()

    asyncio.run(body())

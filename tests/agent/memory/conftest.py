"""A memory on disk with the real embedding model."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from edgeagent.agent.memory.memory import Memory
from edgeagent.execution.embedding import Encoder, OnnxEmbedder

OpenMemory = Callable[..., AbstractAsyncContextManager[Memory]]


@pytest.fixture
def open_memory(encoder: Encoder, tmp_path: Path) -> OpenMemory:
    """Opens the memory at `path` (default: one in `tmp_path`) with a clock that ticks once a call, by `step`."""

    async def locate() -> Encoder:
        return encoder

    @asynccontextmanager
    async def opened(
        path: Path = tmp_path / "memory.sqlite",
        max_memories: int | None = None,
        step: int = 1,
        *,
        reranks: bool = False,
        on_forget: Callable[[], None] | None = None,
    ) -> AsyncIterator[Memory]:
        ticks = itertools.count(1_700_000_000, step)
        embedder = OnnxEmbedder(locate, 384)
        matcher = embedder if reranks else None
        memory = await Memory.open(
            path, embedder, lambda: float(next(ticks)), max_memories, matcher=matcher, on_forget=on_forget
        )
        try:
            yield memory
        finally:
            await memory.close()
            await embedder.close()

    return opened

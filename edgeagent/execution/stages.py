"""A stage of a split model in a worker of its own, and what two ends must agree on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edgeagent.core.errors import EngineError
from edgeagent.core.generation import Sampling
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.core.stages import Cut, HiddenType, Padding
from edgeagent.execution.admission import Admission
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.loading import LoadedFacts, LoadSettings, engine_name, pace_of
from edgeagent.execution.local import LOAD_STALL_S, LocalModel
from edgeagent.execution.stage_sessions import SessionSpec, StageSession, open_session
from edgeagent.execution.supervisor import Worker


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What the engine says of a loaded stage. `kv_planes`: row bytes of K of its layers, then of V, or empty."""

    context_tokens: int
    width: int
    engine: str
    system: str
    kv_planes: tuple[int, ...]


class StageModel:
    """One stage's file in a worker of its own: loads on first use, and again after its worker was lost.

    `settings.variant_sha256` is the stage file's own hash, `source_sha256` that of the whole it was cut from. A head
    takes less memory with `padding` (`model.slicing.padding_of`).
    """

    def __init__(
        self,
        settings: LoadSettings,
        cut: Cut,
        source_sha256: str,
        padding: Padding | None = None,
        *,
        slots: int = 1,
        queue: int = 16,
        limits: WorkerLimits = WorkerLimits(),  # noqa: B008  (frozen)
    ) -> None:
        self.settings = settings
        self.cut = cut
        self.source_sha256 = source_sha256
        self.padding = padding
        self.admission = Admission(slots=slots, queue=queue)
        self.limits = limits
        self._worker: Worker | None = None
        self._facts: StageFacts | None = None
        self._loading = asyncio.Lock()
        self._pace: tuple[int, float] | None = None

    @property
    def is_loaded(self) -> bool:
        return self._worker is not None and self._worker.is_alive

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    async def facts(self) -> StageFacts:
        """Loads the stage if need be. Raises ModelFileError, OutOfMemoryError, EngineLostError."""
        await self._ready()
        assert self._facts is not None
        return self._facts

    async def descriptor(self, model_id: str, hidden: HiddenType) -> StageDescriptor:
        """To be compared with the other end's. Raises as `facts`, and EngineError for layers of different caches."""
        facts, cut = await self.facts(), self.cut
        k = cut.end if cut.is_head else cut.begin
        planes = _extended(facts.kv_planes, cut.layers - k) if cut.is_head else facts.kv_planes
        return _describe(model_id, self.settings, self.source_sha256, k, cut.layers, facts, planes, hidden)

    @asynccontextmanager
    async def session(
        self,
        context_tokens: int,
        hidden: HiddenType = "f32",
        *,
        gives_hidden: bool = False,
        sampling: Sampling | None = None,
        prompt: Sequence[int] = (),
        output: Sequence[int] = (),
    ) -> AsyncIterator[StageSession]:
        """A sequence in it. A head always gives hidden states, a tail if it is to: the final ones, before the norm.

        Raises as `facts`, and RequestError.
        """
        cut = self.cut
        after = cut.num_blocks if cut.is_head or gives_hidden else None
        spec = SessionSpec(
            context_tokens, not cut.is_head, after, hidden, sampling, prompt=tuple(prompt), output=tuple(output)
        )
        async with open_session(await self._ready(), spec) as session:
            yield session

    async def set_pace(self, threads: int, duty: float) -> None:
        """As `LocalModel.set_pace`."""
        self._pace = pace_of(self.settings, threads, duty)
        if self._worker is not None and self._worker.is_alive:
            with contextlib.suppress(EngineError):  # one that dies now is told again when it comes back
                await self._tell_pace(self._worker)

    async def _tell_pace(self, worker: Worker) -> None:
        if self._pace is not None:
            await worker.call("set_threads", threads=self._pace[0])
            await worker.call("set_duty", duty=self._pace[1])
            worker.watch.duty = self._pace[1]

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.close()
            self._worker = None

    async def _ready(self) -> Worker:
        async with self._loading:
            if self._worker is None or not self._worker.is_alive:
                self._worker = await Worker.spawn("llama", limits=self.limits)
                self._facts = await self._load(self._worker)
                await self._tell_pace(self._worker)
            return self._worker

    async def _load(self, worker: Worker) -> StageFacts:
        cut = {"begin": self.cut.begin, "end": self.cut.end, "of_layers": self.cut.layers}
        padding = self.padding.model_dump() if self.padding else None
        params = self.settings.parameters() | cut | {"source_sha256": self.source_sha256, "padding": padding}
        try:
            reply, _ = await worker.call("load_stage", (), stall_s=LOAD_STALL_S, **params)
        except BaseException:
            await worker.close()
            raise
        return StageFacts(
            context_tokens=int(reply["context_tokens"]),
            width=int(reply["width"]),
            engine=engine_name(self.settings, reply),
            system=str(reply["system"]),
            kv_planes=tuple(int(size) for size in reply["kv_planes"]),
        )


async def describe_head(model: LocalModel, model_id: str, k: int, hidden: HiddenType) -> StageDescriptor:
    """As `StageModel.descriptor`, of the head in a whole model."""
    facts, settings = await model.facts(), model.settings
    planes, half = facts.kv_planes, len(facts.kv_planes) // 2
    behind = planes[:half][k:] + planes[half:][k:]
    return _describe(model_id, settings, settings.variant_sha256, k, facts.layers, facts, behind, hidden)


def _describe(
    model_id: str,
    settings: LoadSettings,
    variant_sha256: str,
    k: int,
    layers: int,
    facts: StageFacts | LoadedFacts,
    kv_planes: tuple[int, ...],
    hidden: HiddenType,
) -> StageDescriptor:
    return StageDescriptor.model_validate(
        {
            "model": model_id,
            "variant_sha256": variant_sha256,
            "k": k,
            "layers": layers,
            "width": facts.width,
            "hidden": hidden,
            "kv_type": settings.kv_type,
            "kv_planes": kv_planes,
            "flash_attention": settings.flash_attention,
            "extra_buffers": settings.extra_buffers,
            "chunk_tokens": settings.chunk_tokens,
            "threads": 0 if settings.is_thread_invariant else settings.threads,
            "engine": facts.engine,
            "system": facts.system,
        }
    )


def _extended(own: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """The planes of `num_layers` more layers that are like the ones here."""
    half = len(own) // 2
    if len(set(own[:half])) > 1 or len(set(own[half:])) > 1:
        raise EngineError("the caches of this model's layers differ; it cannot be split")
    return own[:1] * num_layers + own[-1:] * num_layers

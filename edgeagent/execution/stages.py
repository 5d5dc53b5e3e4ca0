"""A stage of a split model in a worker of its own, and what two ends must agree on."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edgeagent.core.errors import EngineError
from edgeagent.core.generation import Sampling
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.core.stages import Cut, HiddenType, Padding
from edgeagent.execution.admission import Admission
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.loaded import LOAD_STALL_S, LoadedModel
from edgeagent.execution.loading import LoadedFacts, LoadSettings, engine_name, exact_key_of
from edgeagent.execution.local import LocalModel
from edgeagent.execution.stage_sessions import SessionSpec, StageSession, open_session
from edgeagent.execution.supervisor import Worker


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What the engine says of a loaded stage. `kv_planes`: row bytes of K of its layers, then of V, or empty."""

    context_tokens: int
    width: int
    num_vocab: int
    engine: str
    system: str
    kv_planes: tuple[int, ...]
    exact_key: str
    """Of the whole variant that it was cut from, as if that were loaded like this."""


class StageModel(LoadedModel):
    """One stage's file in a worker of its own: loads on first use, and again after its worker was lost.

    `settings.variant_sha256` is the stage file's own hash, `source_sha256` that of the whole it was cut from. A head or
    a middle takes less memory with `padding` (`model.slicing.padding_of`).
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
        per_user: int | None = None,
        limits: WorkerLimits = WorkerLimits(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__(settings, Admission(slots=slots, queue=queue, per_user=per_user), limits)
        self.cut = cut
        self.source_sha256 = source_sha256
        self.padding = padding
        self._facts: StageFacts | None = None

    async def facts(self) -> StageFacts:
        """Loads the stage if need be. Raises ModelFileError, OutOfMemoryError, EngineLostError."""
        await self.worker()
        assert self._facts is not None
        return self._facts

    async def descriptor(self, model_id: str, hidden: HiddenType) -> StageDescriptor:
        """To be compared with the other end's, where they meet: of a middle, where it begins.

        Raises as `facts`, and EngineError for layers of different caches.
        """
        facts, cut = await self.facts(), self.cut
        k = cut.end if cut.is_head else cut.begin
        planes = _extended(facts.kv_planes, cut.layers - k) if cut.ends_inside else facts.kv_planes
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
        """A sequence in it. A head or a middle always gives hidden states, a tail if it is to: the final ones, before
        the norm.

        Raises as `facts`, and RequestError.
        """
        cut = self.cut
        after = cut.num_blocks if cut.ends_inside or gives_hidden else None
        spec = SessionSpec(
            context_tokens, not cut.is_head, after, hidden, sampling, prompt=tuple(prompt), output=tuple(output)
        )
        async with open_session(await self.worker(), spec) as session:
            yield session

    async def num_warm(self, prompt: Sequence[int], adapter: str = "") -> int:
        """None: a session's cells end with it."""
        del prompt, adapter
        return 0

    async def _load_into(self, worker: Worker) -> None:
        cut = {"begin": self.cut.begin, "end": self.cut.end, "of_layers": self.cut.layers}
        padding = self.padding.model_dump() if self.padding else None
        params = self.settings.parameters() | cut | {"source_sha256": self.source_sha256, "padding": padding}
        reply, _ = await worker.call("load_stage", (), stall_s=LOAD_STALL_S, **params)
        self._facts = StageFacts(
            context_tokens=int(reply["context_tokens"]),
            width=int(reply["width"]),
            num_vocab=int(reply["vocab"]),
            engine=engine_name(self.settings, reply),
            system=str(reply["system"]),
            kv_planes=tuple(int(size) for size in reply["kv_planes"]),
            exact_key=exact_key_of(self.settings, self.source_sha256, reply),
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

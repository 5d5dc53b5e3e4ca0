"""A variant loaded in a worker of its own: the daemon's handle to local generation."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, replace

from edgeagent.core.generation import Alternative, Generation, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.execution.admission import USUAL, Admission, Urgency
from edgeagent.execution.channel import Message, Received
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.keeping import Cells, Keeping
from edgeagent.execution.kvstore.store import KvStore
from edgeagent.execution.loaded import LOAD_STALL_S, LoadedModel
from edgeagent.execution.loading import LoadedFacts, LoadSettings, facts_of
from edgeagent.execution.recovering import Recovering
from edgeagent.execution.supervisor import Worker

__all__ = [
    "Drafted",
    "EngineEvent",
    "Evaluated",
    "Exported",
    "LoadSettings",
    "LoadedFacts",
    "LocalModel",
    "Pruned",
    "Reloaded",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """`tokens` of the prompt and output are in the cache; `reused` of them were there before (first event only)."""

    tokens: int
    reused: int | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """The cache of a whole prompt: blocks of one chunk each, one after the other."""

    cells: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The worker was lost, and the next one is loaded with other settings: what `change`d, for the answer's notes."""

    change: str


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft of so many tokens was checked, and so many of them stand."""

    tokens: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """So many positions of the prompt are gone from the cache, as the generation wanted."""

    positions: int


EngineEvent = Evaluated | Exported | Reloaded | Drafted | Pruned | TokenStep


class LocalModel(LoadedModel):
    """Loads on first use, once more after a crash, and unloads when told.

    The worker holds as many sequences as `settings` say: so many requests can have a `lease` together. With a `store`,
    what was evaluated outlives the worker. `step_s` is how long one step is predicted to take: silence far beyond that
    (and beyond the longest step seen) counts as a hang.
    """

    def __init__(
        self,
        settings: LoadSettings,
        *,
        queue: int = 16,
        per_user: int | None = None,
        limits: WorkerLimits = WorkerLimits(),  # noqa: B008  (frozen)
        step_s: float = 0.0,
        store: KvStore | None = None,
    ) -> None:
        admission = Admission(slots=settings.sequences, queue=queue, per_user=per_user)
        super().__init__(settings, admission, limits)
        self._step_s = step_s
        self._recovering = Recovering()
        self._store = store
        self._keeping: Keeping | None = None
        self._facts: LoadedFacts | None = None

    def set_invariance(self, invariance: Invariance) -> None:
        """What the probe found, for the next load."""
        self.settings = replace(self.settings, invariance=invariance)

    async def facts(self) -> LoadedFacts:
        """Loads the variant if need be. Raises ModelFileError, OutOfMemoryError, EngineLostError."""
        await self.worker()
        assert self._facts is not None
        return self._facts

    async def surprisals(self, texts: Sequence[str]) -> list[list[tuple[int, float | None]]]:
        """Of each text the bytes of every token and its surprisal in bits; None for one that nothing comes before.

        Costs as much as reading the texts. Cancelled, it ends with the chunk under way.
        """
        reply = await self._asked("surprisal", texts=list(texts))
        return [[(int(size), bits) for size, bits in tokens] for tokens in reply["tokens"]]

    async def num_warm(self, prompt: Sequence[int], adapter: str = "") -> int:
        """How many of a prompt's tokens, from the first on, need not be evaluated now. Raises EngineLostError.

        Kept cells hold nearly all that the worker's own do: of the newest answer what came since they were kept lacks.
        """
        await self.worker()
        if self._keeping is not None:
            return min(await self._keeping.num_kept(prompt, adapter), len(prompt) - 1)
        assert self._facts is not None
        reply = await self._asked("held", prompt=prompt[: self._facts.context_tokens], adapter=adapter)
        return min(int(reply["tokens"]), len(prompt) - 1)

    async def generate(
        self, generation: Generation, urgency: Urgency = USUAL, *, export_kv: bool = False, keep: bool = True
    ) -> AsyncGenerator[EngineEvent, None]:
        """Extend a Generation from its journal. Raises EngineLostError when the worker dies on the way.

        Without `keep` nothing that is evaluated outlives the worker.
        """
        worker = await self.worker()
        if change := self._recovering.began(generation.id):
            yield Reloaded(change)
        keeping, output = self._keeping if keep else None, list(generation.output)
        adapter = generation.adapter.sha256 if generation.adapter else ""
        try:
            behind = () if generation.pruning else output  # what stands behind a pruned prompt was never kept
            kept = await keeping.restore(worker, generation.prompt, behind, adapter) if keeping else None
            async with contextlib.aclosing(self._stream(worker, generation, urgency, export_kv, kept)) as stream:
                async for event, bulk in stream:
                    if "token" in event:
                        self._recovering.progressed()
                        output.append(event["token"])
                        if "drafted" in event:
                            yield Drafted(event["drafted"], event["accepted"])
                        yield token_step(event, bulk)
                    elif "cells" in event:
                        yield Exported(event["cells"], bulk)
                    elif "evaluated" in event:
                        yield Evaluated(event["evaluated"], event.get("reused"))
                    elif "pruned" in event:
                        yield Pruned(event["pruned"])
                    elif keeping:
                        keeping.take(event, generation.prompt, output, adapter)
        finally:
            self._recovering.ended(generation.id, is_lost=not worker.is_alive)
            if keeping:
                keeping.note_finished(worker, generation.prompt, tuple(output), adapter)

    def _stream(
        self, worker: Worker, generation: Generation, urgency: Urgency, export_kv: bool, keep_from: int | None
    ) -> AsyncGenerator[Received, None]:
        return worker.stream(
            "generate",
            prompt=generation.prompt,
            output=generation.output,
            sampling=generation.sampling.model_dump(),
            max_tokens=generation.max_tokens,
            export_kv=export_kv,
            keep_from=keep_from,
            pruning=asdict(generation.pruning) if generation.pruning else None,
            **adapter_of(generation),
            **asdict(urgency),
        )

    async def prefill(self, prompt: Sequence[int], urgency: Urgency = USUAL) -> AsyncGenerator[Evaluated, None]:
        """Fill the cache chunk by chunk; leaving the iteration keeps what was evaluated."""
        worker = await self.worker()
        if self._keeping:
            await self._keeping.restore(worker, prompt, ())
        async with contextlib.aclosing(worker.stream("prefill", prompt=prompt, **asdict(urgency))) as stream:
            async for event, _ in stream:
                yield Evaluated(event["evaluated"], event.get("reused"))

    async def splice(self, prompt: Sequence[int], first_block: int, blocks: Sequence[bytes]) -> None:
        """Put a peer's blocks behind the cells evaluated here. Raises EngineError when they do not fit."""
        worker = await self.worker()
        await worker.call("splice", blocks, prompt=prompt, first_block=first_block)

    async def bench(self, prompt_tokens: int, decode_tokens: int) -> tuple[float, float]:
        """Prefill and decode rate in tokens a second."""
        worker = await self.worker()
        reply, _ = await worker.call("bench", prompt_tokens=prompt_tokens, decode_tokens=decode_tokens)
        return float(reply["prefill_tok_s"]), float(reply["decode_tok_s"])

    async def time_batches(self, spans: Sequence[int], past: int) -> list[float]:
        """Seconds of batches of so many tokens, one after the other behind `past` tokens, each with one token's logits.

        Nobody else may use the engine meanwhile. Raises RequestError when they do not fit the context.
        """
        worker = await self.worker()
        reply, _ = await worker.call("time", spans=list(spans), past=past)
        return [float(seconds) for seconds in reply["seconds"]]

    async def close(self) -> None:
        """End the worker, when what it evaluated is kept."""
        if self._worker is not None and self._keeping is not None and self._worker.is_alive:
            await self._keeping.flush(self._worker)
        await super().close()

    def _recover(self, lost: Worker | None) -> None:
        if lost is not None:
            self._adopt(self._recovering.lost(lost, self.settings))
        self._recovering.check()

    async def _load_into(self, worker: Worker) -> None:
        worker.watch.step_s = self._step_s
        reply, _ = await worker.call("load", (), stall_s=LOAD_STALL_S, **self.settings.parameters())
        self._facts = facts_of(self.settings, reply)
        if reply["draft_fault"]:
            log.warning("no draft model: %s", reply["draft_fault"])
        self._keeping = self._make_keeping(self._facts)

    def _adopt(self, settings: LoadSettings) -> None:
        self.settings = settings
        self.admission.set_slots(settings.sequences)

    def _make_keeping(self, facts: LoadedFacts) -> Keeping | None:
        if self._store is None or not facts.kv_planes:
            return None
        is_free = self.settings.invariance.free_prefill
        return Keeping(self._store, Cells(facts.exact_key, facts.kv_planes, self.settings.chunk_tokens, is_free))


def adapter_of(generation: Generation) -> Message:
    """The parameters of op `generate` that name its adapter."""
    adapter = generation.adapter
    return {"adapter": adapter.sha256, "adapter_path": adapter.path} if adapter else {}


def token_step(event: Message, piece: bytes) -> TokenStep:
    """From the worker's event `token`."""
    if "logprob" not in event:
        return TokenStep(event["position"], event["token"], piece, event["is_end"])
    top = tuple(Alternative(token, bytes.fromhex(raw), logprob) for token, raw, logprob in event["top"])
    return TokenStep(event["position"], event["token"], piece, event["is_end"], event["logprob"], top)

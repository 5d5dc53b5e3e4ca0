"""Chooses stages of a model that its device holds: a head where the whole is not here or not admitted, and the output
head beside either where no text may leave.

A peer with the rest of the model is needed for every word of theirs. Holds none.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeagent.core.cards import KvType, SlicedSource
from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import EdgeAgentError, OutOfMemoryError
from edgeagent.core.hardware import Profile, Rates
from edgeagent.core.stages import Cut
from edgeagent.execution.loading import LoadSettings
from edgeagent.execution.stage_trial import Trial, rows_of, try_head, try_output
from edgeagent.execution.stages import StageModel
from edgeagent.model.choosing import ReadProfile
from edgeagent.model.explain import megabytes
from edgeagent.model.fence import Load, fence
from edgeagent.model.footprint import Setup
from edgeagent.model.limits import Limits
from edgeagent.model.loading import safe_settings
from edgeagent.model.machine import Machine
from edgeagent.model.placement import CONTEXT_GRAIN, cache_types, least_context, wanted_context
from edgeagent.model.recipe import output_share
from edgeagent.model.resident import HeldHead, HeldOutput, Resident
from edgeagent.model.slicing import padding_of, stage_of, stored_stages
from edgeagent.model.stage_footprint import longest_context, predict_stage
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ENGINE, ProbeModel

OUTPUT_TOKENS = CONTEXT_GRAIN
"""An output head needs the cells of one step."""
UNTRIED = Rates(prefill_tok_s=1.0, decode_tok_s=1.0)
"""Until a head was tried, which is before anybody plans with it."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a stage would be loaded, and its worker's peak."""

    stored: StoredVariant
    cut: Cut
    source_sha256: str
    context_tokens: int
    kv_type: KvType
    memory_bytes: int


class Heads:
    """Chooses by what the profile says now, and remembers what heads were found to do.

    With `draws_here` the output head is loaded beside the rest, where it is held, too.
    """

    def __init__(
        self,
        store: ModelStore,
        config: EngineConfig,
        read_profile: ReadProfile,
        read_limits: Callable[[], Limits],
        describe: Callable[[Profile], Machine],
        *,
        draws_here: bool,
    ) -> None:
        self._draws_here = draws_here
        self._store = store
        self._config = config
        self._read_profile = read_profile
        self._read_limits = read_limits
        self._describe = describe
        self._trials: dict[str, Trial] = {}
        self._drawn_rows: dict[str, int] = {}

    def stored(self, model_id: str) -> list[StoredVariant]:
        """The heads of a model (`ID/VARIANT`: of that variant) whose files are here, the deepest first.

        Raises ModelNotFoundError, ModelFileError.
        """
        card_id, _, only = model_id.partition("/")
        found = [
            (source.end, stored)
            for stored, source in self._stages(card_id)
            if source.begin == 0 and only in ("", source.variant)
        ]
        return [stored for _, stored in sorted(found, key=lambda pair: -pair[0])]

    def _stages(self, card_id: str) -> list[tuple[StoredVariant, SlicedSource]]:
        stored = stored_stages(self._store, card_id)
        return [(each, source) for each in stored if isinstance(source := each.variant.source, SlicedSource)]

    def _output(self, card_id: str, whole_sha256: str) -> StoredVariant | None:
        """The output head of that variant, where it is wanted and here."""
        if not self._draws_here:
            return None
        stages = self._stages(card_id)
        found = (each for each, source in stages if source.is_output and source.variant_sha256 == whole_sha256)
        return next(found, None)

    async def choose(self, model_id: str, room_bytes: int, why: str) -> Resident | None:
        """The deepest head that fits, its file kept from eviction; None: there is no head. `why` the whole is not used.

        Raises OutOfMemoryError when none fits, EngineError when llama.cpp does not run here, ModelFileError.
        """
        stored = await asyncio.to_thread(self.stored, model_id)
        if not stored:
            return None
        profile = await self._profile(stored[0])
        machine, limits = self._describe(profile), self._read_limits()
        pairs = [await asyncio.to_thread(self._fits, each, machine, limits, room_bytes) for each in stored]
        fitting = next((pair for pair in pairs if _bytes(pair) <= room_bytes), None)
        if fitting is None:
            least = min(pairs, key=_bytes)
            needed, allowed = megabytes(_bytes(least)), megabytes(room_bytes)
            what = f"its head {least[0].stored.variant.name}{' with the output head' if len(least) > 1 else ''}"
            raise OutOfMemoryError(f"{why}; {what} needs {needed}, {allowed} may be used")
        return self._resident(fitting, profile, why)

    def _fits(self, head: StoredVariant, machine: Machine, limits: Limits, room_bytes: int) -> tuple[_Fit, ...]:
        """The head, and the output head, too, if it is to be beside it."""
        source = head.variant.source
        assert isinstance(source, SlicedSource)
        output = self._output(head.card.id, source.variant_sha256)
        if output is None:
            return (_fit(head, machine, limits, room_bytes),)
        beside = _fit_output(output, machine, limits, room_bytes)
        return (_fit(head, machine, limits, room_bytes - beside.memory_bytes), beside)

    async def add_output(self, resident: Resident, room_bytes: int) -> None:
        """The output head of a whole model beside it, if one is wanted, here, and fits `room_bytes`.

        It is loaded as the whole is, so that it gives the same bits. The model answers without it where it cannot be
        used; `no_output` then says why.
        """
        try:
            output = await asyncio.to_thread(self._output, resident.card.id, resident.variant.sha256 or "")
            if output is None:
                return
            machine, limits = self._describe(await self._read_profile(None)), self._read_limits()
            fit = await asyncio.to_thread(_fit_output, output, machine, limits, room_bytes)
        except EdgeAgentError as error:
            resident.no_output = f"its output head cannot be used: {error}"
            return
        if fit.memory_bytes > room_bytes:
            needed, allowed = megabytes(fit.memory_bytes), megabytes(max(room_bytes, 0))
            resident.no_output = f"its output head needs {needed} beside it, and {allowed} may be used"
            return
        settings = replace(
            resident.whole.settings,
            path=str(output.path),
            variant_sha256=output.sha256,
            context_tokens=fit.context_tokens,
            sequences=1,
            draft_path="",
        )
        resident.output = HeldOutput(self._stage(fit, settings), self._store.hold(output), fit.memory_bytes)
        resident.memory_bytes += fit.memory_bytes
        resident.single_bytes += fit.memory_bytes

    async def try_output(self, resident: Resident) -> None:
        """Finds, once, how many tokens' draws from a whole model's output head share a batch. One that fails is given
        up."""
        assert resident.output is not None
        held, settings = resident.output, resident.output.stage.settings
        key = f"{settings.variant_sha256} {settings.extra_buffers} {settings.threads}"
        try:
            if (rows := self._drawn_rows.get(key)) is None:
                rows = await try_output(held.stage, await rows_of(resident.whole))
        except EdgeAgentError as error:
            resident.output, resident.no_output = None, f"its output head cannot be used: {error}"
            resident.memory_bytes -= held.num_bytes
            resident.single_bytes -= held.num_bytes
            await held.stage.close()
            held.hold.close()
            return
        self._drawn_rows[key] = held.batch_rows = rows

    async def measure(self, resident: Resident) -> None:
        """Tries a head once: its rates, as if all layers were here, and how many tokens share a batch.

        Raises EngineError, ModelFileError, OutOfMemoryError.
        """
        assert resident.head is not None
        head = resident.head
        stage, output = head.stage, resident.output
        key = f"{stage.settings.variant_sha256} {stage.settings.kv_type} {stage.settings.threads} {output is not None}"
        if (trial := self._trials.get(key)) is None:
            trial = await try_head(stage)
            if output is not None:
                trial = replace(trial, drawn_rows=await try_output(output.stage, trial.rows))
            self._trials[key] = trial
        if output is not None:
            output.batch_rows = trial.drawn_rows
        share = stage.cut.num_blocks / stage.cut.layers
        resident.rates = Rates(
            prefill_tok_s=trial.prefill_tok_s * share,
            decode_tok_s=trial.decode_tok_s * share * (1 - output_share(resident.card, resident.variant)),
            threads=stage.settings.threads,
            prompt_tokens=trial.prompt_tokens,
        )
        resident.full_rates = None
        head.batch_rows = trial.batch_rows if stage.settings.speculation else 0
        head.is_tried = True

    async def _profile(self, stored: StoredVariant) -> Profile:
        """With the engine tried, on the head if on nothing else: to llama.cpp its file is a model."""
        profile = await self._read_profile(None)
        engine = profile.engine(ENGINE)
        if engine is not None and engine.usable:
            return profile
        kv_type, chunk_tokens = self._config.kv_type, self._config.chunk_tokens
        key = f"{stored.card.id}/{stored.variant.name}"
        return await self._read_profile(ProbeModel(key, stored.path, kv_type, chunk_tokens))

    def _resident(self, fits: tuple[_Fit, ...], profile: Profile, why: str) -> Resident:
        fit, memory_bytes = fits[0], _bytes(fits)
        stored, source = fit.stored, fit.stored.variant.source
        assert isinstance(source, SlicedSource)
        whole = stored.card.variant(source.variant) or stored.variant
        stage, *more = (self._stage(each, self._settings(each, profile)) for each in fits)
        with contextlib.ExitStack() as stack:  # of two files that cannot both be held, none is
            hold, *holds = (stack.enter_context(contextlib.closing(self._store.hold(each.stored))) for each in fits)
            stack.pop_all()
        sizes = (each.memory_bytes for each in fits[1:])
        outputs = [HeldOutput(*each) for each in zip(more, holds, sizes, strict=True)]
        return Resident(
            card=stored.card,
            variant=whole.model_copy(update={"sha256": fit.source_sha256, "bytes": stored.bytes}),
            why=why,
            rates=UNTRIED.model_copy(update={"threads": stage.settings.threads}),
            memory_bytes=memory_bytes,
            single_bytes=memory_bytes,
            local=stage,
            head=HeldHead(stage, why),
            output=outputs[0] if outputs else None,
            used_at=time.monotonic(),
            hold=hold,
        )

    def _stage(self, fit: _Fit, settings: LoadSettings) -> StageModel:
        stored, config = fit.stored, self._config
        shape = stored.card.architecture
        assert shape is not None  # it has layers
        load = Load(
            forecast_bytes=fit.memory_bytes,
            file_bytes=stored.bytes,
            sequence_bytes=shape.kv_bytes_per_token(fit.kv_type) * fit.context_tokens,
            vocab=shape.vocab,
            chunk_tokens=config.chunk_tokens,
            threads=settings.threads,
            is_mapped=True,
        )
        return StageModel(
            settings,
            fit.cut,
            fit.source_sha256,
            padding_of(stored.path) if fit.cut.is_head else None,
            queue=config.queue,
            per_user=config.user_queue,
            limits=fence(load, nice=config.nice),
        )

    def _settings(self, fit: _Fit, profile: Profile) -> LoadSettings:
        safe, known = safe_settings(profile), [rates.threads for rates in profile.rates.values()]
        return LoadSettings(
            path=str(fit.stored.path),
            variant_sha256=fit.stored.sha256,
            context_tokens=fit.context_tokens,
            kv_type=fit.kv_type,
            flash_attention=safe["flash_attention"],
            threads=self._config.threads or max(known, default=profile.cpu.cores),
            extra_buffers=safe["extra_buffers"],
            chunk_tokens=self._config.chunk_tokens,
            speculation=self._config.speculation == "auto",
        )


def _fit(stored: StoredVariant, machine: Machine, limits: Limits, room_bytes: int) -> _Fit:
    """With the longest context that fits, up to the wanted one. Raises ModelFileError."""
    cut, source_sha256 = stage_of(stored)
    shape, file_type = stored.card.architecture, stored.variant.file_type
    assert shape is not None
    kv_type = cache_types(shape, machine, limits)[0] if machine.flash_attention else "f16"
    setup = Setup(least_context(shape, limits), kv_type, machine.flash_attention, limits.chunk_tokens)
    about = shape, file_type, cut, stored.bytes, machine.repacked
    most = longest_context(*about, setup, room_bytes) // CONTEXT_GRAIN * CONTEXT_GRAIN
    tokens = min(wanted_context(shape, limits), max(most, setup.context_tokens))
    memory_bytes = predict_stage(*about, replace(setup, context_tokens=tokens)).total_bytes
    return _Fit(stored, cut, source_sha256, tokens, kv_type, memory_bytes)


def _fit_output(stored: StoredVariant, machine: Machine, limits: Limits, room_bytes: int) -> _Fit:
    few = replace(limits, context_tokens=OUTPUT_TOKENS, min_context_tokens=0)
    return _fit(stored, machine, few, room_bytes)


def _bytes(fits: tuple[_Fit, ...]) -> int:
    return sum(fit.memory_bytes for fit in fits)

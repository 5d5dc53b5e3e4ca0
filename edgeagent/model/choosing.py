"""Chooses how a model runs here: which variant, measured on this machine, and loaded how. Holds none."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from edgeagent.core.cards import KvType, ModelCard
from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import EngineError, ModelNotFoundError, OutOfMemoryError, RequestError
from edgeagent.core.hardware import Profile, Rates
from edgeagent.core.invariance import SEQUENCES, EvaluationSettings
from edgeagent.execution.kvstore.store import KvStore
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.adapter_memory import adapter_bytes
from edgeagent.model.limits import Limits
from edgeagent.model.loading import loading_of
from edgeagent.model.machine import Machine
from edgeagent.model.recipe import load_of
from edgeagent.model.resident import Resident
from edgeagent.model.select import Choice, Selection, Sizes, select
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ENGINE, ProbeModel
from edgeagent.resource.invariance import verdict
from edgeagent.resource.speed import position_s

MAX_TRIES = 3
"""How many variants of a model are measured before one is settled on."""

ReadProfile = Callable[[ProbeModel | None], Awaitable[Profile]]
"""This machine's profile, with measured rates of the given variant."""

Room = tuple[int, int]
"""Bytes that a model may be chosen to take beside the others, and if all others were gone."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A variant that was measured here and won, and the memory it may take beside `adapter_bytes` left aside."""

    stored: StoredVariant
    selection: Selection
    profile: Profile
    memory_bytes: int
    adapter_bytes: int


class Chooser:
    """Chooses by what the profile says now. `kept` is where evaluated tokens outlive their worker."""

    def __init__(
        self,
        store: ModelStore,
        config: EngineConfig,
        read_profile: ReadProfile,
        read_limits: Callable[[], Limits],
        describe: Callable[[Profile], Machine],
        kept: KvStore | None,
    ) -> None:
        self._store = store
        self._config = config
        self._read_profile = read_profile
        self._read_limits = read_limits
        self._describe = describe
        self._kept = kept

    def stored(self, model_id: str) -> list[StoredVariant]:
        """The variants of a model (`ID/VARIANT`: that one) whose files are here. Raises ModelNotFoundError."""
        card_id, _, only = model_id.partition("/")
        card = self._store.registry.card(card_id)
        if only and self._store.registry.variant(card_id, only)[1].is_stage:
            raise RequestError(f"{model_id} is a stage of {card_id} and cannot answer alone; ask for the whole model")
        names = [self._store.registry.variant(card_id, only)[1].name] if only else [v.name for v in card.whole_variants]
        found = (self._store.find(card_id, name) for name in names)
        return [stored for stored in found if stored]

    async def candidates(self, model_id: str) -> dict[str, StoredVariant]:
        """The same by their names, at least one. Raises ModelNotFoundError, ModelFileError."""
        if stored := {s.variant.name: s for s in await asyncio.to_thread(self.stored, model_id)}:
            return stored
        command = "edgeagent models pull " + model_id.replace("/", " --variant ")
        raise ModelNotFoundError(f"no file of {model_id} is here; run '{command}'")

    async def settle(self, stored: Mapping[str, StoredVariant], room: Room) -> Settled:
        """A selection whose variant was measured here. What measuring teaches may change it, a few times.

        One that fits beside the models that have memory; where there is none, one that fits when they are gone, at
        last without room for its adapters. Raises OutOfMemoryError, EngineError, ConfigError.
        """
        card: ModelCard = next(iter(stored.values())).card
        sizes = {name: s.bytes for name, s in stored.items()}
        machine = self._describe(await self._read_profile(None))
        beside, alone = room
        aside = max(adapter_bytes(self._store, s, self._config.sequences) for s in stored.values())
        limits = replace(self._read_limits(), memory_bytes=beside - aside)
        try:
            selection = select(card, sizes, machine, limits)
        except OutOfMemoryError:
            limits, selection, aside = self._alone(card, sizes, machine, limits, alone, aside)
        for _ in range(MAX_TRIES):
            tried = selection.choice
            profile = await self._read_profile(self._probe(stored[tried.variant], tried))
            selection = select(card, sizes, self._describe(profile), limits)
            if (selection.variant, selection.choice.kv_type) == (tried.variant, tried.kv_type):
                break
        else:
            profile = await self._read_profile(self._probe(stored[selection.variant], selection.choice))
        return Settled(stored[selection.variant], selection, profile, limits.memory_bytes, aside)

    def _alone(
        self, card: ModelCard, sizes: Sizes, machine: Machine, limits: Limits, memory_bytes: int, aside: int
    ) -> tuple[Limits, Selection, int]:
        """A selection for a machine without other models, with what was left aside for adapters if that is possible."""
        if aside:
            with contextlib.suppress(OutOfMemoryError):
                limits = replace(limits, memory_bytes=memory_bytes - aside)
                return limits, select(card, sizes, machine, limits), aside
        limits = replace(limits, memory_bytes=memory_bytes)
        return limits, select(card, sizes, machine, limits), 0

    async def make(self, settled: Settled) -> Resident:
        """Ready to be loaded, its file kept from eviction."""
        resident = await self._resident(settled)
        probe = self._probe(settled.stored, settled.selection.choice)
        await self._probe_invariance(probe, resident.whole)
        resident.hold = self._store.hold(settled.stored)
        return resident

    async def _probe_invariance(self, probe: ProbeModel, local: LocalModel) -> None:
        """Some seconds, once for a variant under these settings on this machine; then the profile knows."""
        evaluation = evaluation_of(local.settings)
        profile = await self._read_profile(replace(probe, evaluation=evaluation))
        local.set_invariance(verdict(profile, probe.key, evaluation))

    def _probe(self, stored: StoredVariant, choice: Choice) -> ProbeModel:
        return probe_of(stored, choice.kv_type, self._config.chunk_tokens)

    async def _resident(self, settled: Settled) -> Resident:
        chosen, profile, config = settled.stored, settled.profile, self._config
        rates = _rates(profile, chosen)
        threads = config.threads or rates.threads
        drafts = await asyncio.to_thread(self.stored, chosen.card.draft) if chosen.card.draft else []
        choice = settled.selection.choice
        room = settled.memory_bytes, settled.adapter_bytes
        loading = loading_of(chosen, choice, profile, config, threads, *room, drafts)
        return Resident(
            card=chosen.card,
            variant=chosen.variant.model_copy(update={"sha256": chosen.sha256, "bytes": chosen.bytes}),
            why=settled.selection.why,
            rates=rates,
            memory_bytes=loading.memory_bytes,
            single_bytes=loading.single_bytes,
            local=LocalModel(
                loading.settings,
                queue=config.queue,
                per_user=config.user_queue,
                limits=loading.limits,
                step_s=config.chunk_tokens / rates.prefill_tok_s,
                store=self._kept,
            ),
            used_at=time.monotonic(),
            position_s=_position_s(profile, chosen, threads),
            find_adapter=partial(self._store.adapter, chosen.card.id, chosen.variant.name),
        )


def probe_of(stored: StoredVariant, kv_type: KvType, chunk_tokens: int) -> ProbeModel:
    """What measuring a variant takes. Raises ValueError for a model that is no decoder."""
    load = load_of(stored.card.shape(stored.variant), stored.variant.file_type)
    key = f"{stored.card.id}/{stored.variant.name}"
    return ProbeModel(key, stored.path, kv_type, chunk_tokens, sum(load.layers.values()))


def evaluation_of(settings: LoadSettings) -> EvaluationSettings:
    """Of how a variant is loaded, what its bits depend on."""
    return EvaluationSettings(
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        extra_buffers=settings.extra_buffers,
        threads=settings.threads,
        chunk_tokens=settings.chunk_tokens,
        sequences=max(settings.sequences, SEQUENCES),
        gpu_layers=settings.gpu_layers,
        experts_on_cpu=settings.experts_on_cpu,
    )


def _position_s(profile: Profile, chosen: StoredVariant, threads: int) -> tuple[float, float]:
    """See `Resident.position_s`; unknown before this machine's kernels were measured with so many threads."""
    if profile.kernels is None:
        return 0.0, 0.0
    load = load_of(chosen.card.shape(chosen.variant), chosen.variant.file_type)
    try:
        return position_s(load, profile.kernels, threads)
    except ValueError:
        return 0.0, 0.0


def _rates(profile: Profile, chosen: StoredVariant) -> Rates:
    """The measured rates of a variant. Raises EngineError when they could not be measured."""
    key = f"{chosen.card.id}/{chosen.variant.name}"
    if (rates := profile.rates.get(key)) is None:
        engine = profile.engine(ENGINE)
        reason = profile.gaps.get(f"rates.{key}") or (engine.probe.reason if engine else "it was never probed")
        raise EngineError(f"the speed of {key} cannot be measured ({reason}); run 'edgeagent doctor'")
    return rates

"""The models in use: which variant runs here, in which worker, and when it is unloaded."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from edgeagent.core.cards import KvType, ModelCard, Variant
from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import EngineError, ModelNotFoundError
from edgeagent.core.hardware import Profile, Rates
from edgeagent.core.invariance import EvaluationSettings, Invariance
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.limits import Limits
from edgeagent.model.locks import Hold
from edgeagent.model.machine import Machine
from edgeagent.model.recipe import load_of
from edgeagent.model.select import Choice, Selection, select
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ENGINE, ProbeModel
from edgeagent.resource.drift import Drift
from edgeagent.resource.invariance import verdict
from edgeagent.resource.speed import position_s

BENCH_PROMPT_TOKENS, BENCH_DECODE_TOKENS = 192, 16
MAX_TRIES = 3
"""How many variants of a model are measured before one is settled on."""

ReadProfile = Callable[[ProbeModel | None], Awaitable[Profile]]
"""This machine's profile, with measured rates of the given variant."""


@dataclass(slots=True)
class Resident:
    """A variant chosen for this machine. Its worker is started on first use."""

    card: ModelCard
    variant: Variant
    why: str
    rates: Rates
    memory_bytes: int
    local: LocalModel
    used_at: float
    pace: tuple[int, float] | None = None
    """Threads and duty that the governor set last; None: as chosen."""
    full_rates: Rates | None = None
    """`rates` before the governor slowed it."""
    position_s: tuple[float, float] = (0.0, 0.0)
    """Seconds that each earlier position adds to a prompt token and to an answer token (0: not known)."""
    drift: Drift = field(default_factory=Drift)
    """How far answers have lately been from what `rates` say."""
    invariance: Invariance = field(default_factory=Invariance)
    """Which ways to evaluate change no bit of its answers here."""
    hold: Hold | None = None
    """Keeps the file from eviction by any process."""


class ModelPool:
    """At most one variant of each model, together within the memory that may be used."""

    def __init__(
        self,
        store: ModelStore,
        config: EngineConfig,
        read_profile: ReadProfile,
        read_limits: Callable[[], Limits],
        describe: Callable[[Profile], Machine],
    ) -> None:
        self._store = store
        self._config = config
        self._read_profile = read_profile
        self._read_limits = read_limits
        self._describe = describe
        self._residents: dict[str, Resident] = {}
        self._choosing = asyncio.Lock()
        self.on_use: Callable[[], None] = lambda: None
        """Called when a model was asked for: it will be loaded soon, if it is not."""

    @property
    def residents(self) -> list[Resident]:
        return list(self._residents.values())

    def has(self, model_id: str) -> bool:
        """Whether some variant of the model is on disk. Raises ModelNotFoundError for an unknown id."""
        return bool(self._stored(model_id))

    async def get(self, model_id: str) -> Resident:
        """The model's best variant for this machine, chosen once.

        Raises ModelNotFoundError (unknown, or no file here), ModelFileError, OutOfMemoryError, ConfigError.
        """
        async with self._choosing:
            resident = self._residents.get(model_id)
            if resident is None:
                resident = self._residents[model_id] = await self._choose(model_id)
            resident.used_at = time.monotonic()
            await self._make_room(resident)
        self.on_use()
        return resident

    async def unload_idle(self) -> None:
        """Run for ever: end the workers of models that nobody used for a while."""
        limit_s = self._config.idle_unload_s
        while limit_s > 0:
            await asyncio.sleep(max(1.0, limit_s / 4))
            for resident in self.residents:
                if time.monotonic() - resident.used_at > limit_s and resident.local.num_waiting == 0:
                    await resident.local.close()

    def smaller(self, resident: Resident) -> int | None:
        """Bytes of the next smaller variant of its model that is on disk; None: it is the smallest."""
        sizes = [stored.bytes for stored in self._stored(resident.card.id)]
        return max((size for size in sizes if size < (resident.variant.bytes or 0)), default=None)

    async def rechoose(self) -> None:
        """Forget the choices that no request uses: the next one chooses under the limits of then."""
        async with self._choosing:
            for model_id, resident in list(self._residents.items()):
                if resident.local.num_waiting == 0:
                    await resident.local.close()
                    if resident.hold:
                        resident.hold.close()
                    del self._residents[model_id]

    async def close(self) -> None:
        for resident in self.residents:
            await resident.local.close()
            if resident.hold:
                resident.hold.close()

    def _stored(self, model_id: str) -> list[StoredVariant]:
        card = self._store.registry.card(model_id)
        found = (self._store.find(model_id, variant.name) for variant in card.variants)
        return [stored for stored in found if stored]

    async def _choose(self, model_id: str) -> Resident:
        stored = {s.variant.name: s for s in await asyncio.to_thread(self._stored, model_id)}
        if not stored:
            raise ModelNotFoundError(f"no file of {model_id} is here; run 'edgeagent models pull {model_id}'")
        selection, profile = await self._settle(self._store.registry.card(model_id), stored)
        chosen = stored[selection.variant]
        resident = self._resident(chosen, selection, profile)
        if self._config.threads:
            await self.measure(resident)
        resident.invariance = await self._probe_invariance(self._probe(chosen, selection.choice), resident)
        resident.hold = self._store.hold(chosen)
        return resident

    async def _settle(self, card: ModelCard, stored: Mapping[str, StoredVariant]) -> tuple[Selection, Profile]:
        """A selection whose variant was measured here. What measuring teaches may change the selection, a few times."""
        limits, sizes = self._read_limits(), {name: s.bytes for name, s in stored.items()}
        selection = select(card, sizes, self._describe(await self._read_profile(None)), limits)
        for _ in range(MAX_TRIES):
            tried = selection.choice
            profile = await self._read_profile(self._probe(stored[tried.variant], tried))
            selection = select(card, sizes, self._describe(profile), limits)
            if (selection.variant, selection.choice.kv_type) == (tried.variant, tried.kv_type):
                return selection, profile
        return selection, await self._read_profile(self._probe(stored[selection.variant], selection.choice))

    async def _probe_invariance(self, probe: ProbeModel, resident: Resident) -> Invariance:
        """Some seconds, once for a variant under these settings on this machine; then the profile knows."""
        evaluation = evaluation_of(resident.local.settings)
        return verdict(await self._read_profile(replace(probe, evaluation=evaluation)), probe.key, evaluation)

    def _probe(self, stored: StoredVariant, choice: Choice) -> ProbeModel:
        return probe_of(stored, choice.kv_type, self._config.chunk_tokens)

    async def measure(self, resident: Resident) -> None:
        """Rates as configured, now: the profile's are at the fastest number of threads. Raises EngineError."""
        async with resident.local.lease():
            prefill, decode = await resident.local.bench(BENCH_PROMPT_TOKENS, BENCH_DECODE_TOKENS)
        measured = {"prefill_tok_s": prefill, "decode_tok_s": decode, "threads": resident.local.settings.threads}
        unknown = {"roofline_fraction": None, "compute_fraction": None, "prompt_tokens": BENCH_PROMPT_TOKENS}
        resident.rates = resident.rates.model_copy(update=measured | unknown)

    def _resident(self, chosen: StoredVariant, selection: Selection, profile: Profile) -> Resident:
        settings = self._load_settings(chosen, selection.choice, profile)
        rates = _rates(profile, chosen)
        threads = settings.threads or rates.threads
        return Resident(
            card=chosen.card,
            variant=chosen.variant.model_copy(update={"sha256": chosen.sha256, "bytes": chosen.bytes}),
            why=selection.why,
            rates=rates,
            memory_bytes=selection.choice.memory_bytes,
            local=LocalModel(replace(settings, threads=threads), queue=self._config.queue),
            used_at=time.monotonic(),
            position_s=_position_s(profile, chosen, threads),
        )

    def _load_settings(self, chosen: StoredVariant, choice: Choice, profile: Profile) -> LoadSettings:
        engine = profile.engine(ENGINE)
        if engine is None or not engine.usable:
            reason = engine.probe.reason if engine else "it was never probed"
            raise EngineError(f"llama.cpp does not run on this machine ({reason}); run 'edgeagent doctor'")
        safe, placement = engine.probe.settings, choice.option.placement
        loading = placement.setup.loading
        return LoadSettings(
            path=str(chosen.path),
            variant_sha256=chosen.sha256,
            context_tokens=choice.context_tokens,
            kv_type=choice.kv_type if safe["flash_attention"] else "f16",
            flash_attention=safe["flash_attention"],
            threads=self._config.threads,
            extra_buffers=safe["extra_buffers"] and loading != "paged",
            chunk_tokens=self._config.chunk_tokens,
            load_mode="read" if loading == "read" else "map",
            gpu_layers=placement.gpu_layers,
            experts_on_cpu=placement.experts_on_cpu,
        )

    async def _make_room(self, wanted: Resident) -> None:
        """Unload the longest unused others until `wanted` fits beside what stays."""
        if wanted.local.is_loaded:
            return
        others = sorted((r for r in self.residents if r is not wanted and r.local.is_loaded), key=lambda r: r.used_at)
        room = self._read_limits().memory_bytes
        while others and wanted.memory_bytes > room:
            oldest = others.pop(0)
            if oldest.local.num_waiting == 0:
                await oldest.local.close()
                room += oldest.memory_bytes


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

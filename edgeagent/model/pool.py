"""The models in use: which variant runs here, in which worker, and when it is unloaded."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edgeagent.core.cards import KvType, ModelCard, Variant
from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import BusyError, EngineError, ModelNotFoundError, OutOfMemoryError
from edgeagent.core.generation import Adapter
from edgeagent.core.hardware import Profile, Rates
from edgeagent.core.invariance import SEQUENCES, EvaluationSettings
from edgeagent.execution.kvstore.store import KvStore
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.limits import Limits
from edgeagent.model.loading import loading_of
from edgeagent.model.locks import Hold
from edgeagent.model.machine import Machine
from edgeagent.model.recipe import load_of
from edgeagent.model.rooming import Rooming
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


def _no_adapter(name: str) -> Adapter:
    raise ModelNotFoundError(f"there is no adapter '{name}' here; leave it out")


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
    hold: Hold | None = None
    """Keeps the file from eviction by any process."""
    single_bytes: int = 0
    """`memory_bytes` if it held one sequence only."""
    num_users: int = 0
    """Requests that hold a lease of the pool."""
    find_adapter: Callable[[str], Adapter] = _no_adapter
    """An adapter by name. Blocks while a file that was never checked is. Raises ModelNotFoundError, ModelFileError."""
    is_promised: bool = False
    """Memory is kept for its worker, which may not have been started yet."""

    @property
    def name(self) -> str:
        return self.card.id

    @property
    def is_loaded(self) -> bool:
        return self.local.is_loaded

    @property
    def pid(self) -> int | None:
        return self.local.pid

    @property
    def is_in_use(self) -> bool:
        return self.num_users > 0 or self.local.num_waiting > 0

    async def unload(self) -> None:
        """End the worker; its memory may be promised to others."""
        await self.local.close()
        self.is_promised = False


class ModelPool:
    """At most one variant of each model, together within the memory that may be used."""

    def __init__(
        self,
        store: ModelStore,
        config: EngineConfig,
        read_profile: ReadProfile,
        read_limits: Callable[[], Limits],
        describe: Callable[[Profile], Machine],
        kept: KvStore | None = None,
    ) -> None:
        """`kept` is where evaluated tokens outlive their worker."""
        self._store = store
        self._config = config
        self._read_profile = read_profile
        self._read_limits = read_limits
        self._describe = describe
        self._kept = kept
        self._residents: dict[str, Resident] = {}
        self._choosing = asyncio.Lock()
        self._rooming = Rooming(lambda: self.residents, read_limits)
        self._is_draining = False
        self.on_use: Callable[[], None] = lambda: None
        """Called when a model was asked for: it will be loaded soon, if it is not."""

    @property
    def residents(self) -> list[Resident]:
        return list({id(resident): resident for resident in self._residents.values()}.values())

    def has(self, model_id: str) -> bool:
        """Whether some variant of the model is on disk. Raises ModelNotFoundError for an unknown id."""
        return bool(self._stored(model_id))

    async def get(self, model_id: str, *, wait_s: float | None = None) -> Resident:
        """The model's best variant for this machine, chosen once, with memory promised to it; for
        `ID/VARIANT`, that variant.

        Waits up to `wait_s` (None: as configured) until others leave room. Raises ModelNotFoundError (unknown, or no
        file here), ModelFileError, OutOfMemoryError, ConfigError, and BusyError when there is no room in time.
        """
        if self._is_draining:
            raise BusyError("the daemon is stopping; ask again when it is back")
        wait_s = self._config.room_wait_s if wait_s is None else wait_s
        resident = await self._chosen(model_id)
        try:
            await self._rooming.admit(resident, wait_s)
        except OutOfMemoryError:  # chosen when there was more
            await self._forget(resident)
            resident = await self._chosen(model_id)
            await self._rooming.admit(resident, wait_s)
        self.on_use()
        return resident

    async def _chosen(self, model_id: str) -> Resident:
        async with self._choosing:
            resident = self._residents.get(model_id)
            if resident is None:
                resident = self._residents[model_id] = await self._choose(model_id)
            resident.used_at = time.monotonic()
            return resident

    @contextlib.asynccontextmanager
    async def lease(self, model_id: str, *, wait_s: float | None = None) -> AsyncIterator[Resident]:
        """As `get`; while inside, the model is not unloaded for others."""
        resident = await self.get(model_id, wait_s=wait_s)
        resident.num_users += 1
        try:
            yield resident
        finally:
            resident.num_users -= 1
            resident.used_at = time.monotonic()

    async def admit(self, resident: Resident) -> None:
        """Promise memory again to a model that lost its worker, before another is started. Raises BusyError."""
        await self._rooming.admit(resident, self._config.room_wait_s)

    async def unload_idle(self) -> None:
        """Run for ever: end the workers of models that nobody used for a while."""
        limit_s = self._config.idle_unload_s
        while limit_s > 0:
            await asyncio.sleep(max(1.0, limit_s / 4))
            await self.release_idle(limit_s)

    async def release_idle(self, unused_s: float) -> None:
        """End the workers of models that nobody has used for so long."""
        for resident in self.residents:
            if resident.is_in_use:
                resident.used_at = time.monotonic()
            elif time.monotonic() - resident.used_at > unused_s:
                await resident.unload()

    def smaller(self, resident: Resident) -> int | None:
        """Bytes of the next smaller variant of its model that is on disk; None: it is the smallest."""
        sizes = [stored.bytes for stored in self._stored(resident.card.id)]
        return max((size for size in sizes if size < (resident.variant.bytes or 0)), default=None)

    async def rechoose(self) -> None:
        """Forget the choices that no request uses: the next one chooses under the limits of then."""
        async with self._choosing:
            for resident in self.residents:
                if not resident.is_in_use:
                    await self._drop(resident)

    async def _forget(self, resident: Resident) -> None:
        async with self._choosing:
            if resident in self.residents and not resident.is_in_use:
                await self._drop(resident)

    async def _drop(self, resident: Resident) -> None:
        await resident.unload()
        if resident.hold:
            resident.hold.close()
        self._residents = {name: other for name, other in self._residents.items() if other is not resident}

    async def drain(self, bound_s: float) -> None:
        """No new requests; those under way have `bound_s` to end. Then as `close`."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                for resident in self.residents:
                    async with resident.local.admission.whole():
                        pass
        await self.close()

    async def close(self) -> None:
        for resident in self.residents:
            await self._drop(resident)

    def _stored(self, model_id: str) -> list[StoredVariant]:
        card_id, _, only = model_id.partition("/")
        card = self._store.registry.card(card_id)
        names = [self._store.registry.variant(card_id, only)[1].name] if only else [v.name for v in card.variants]
        found = (self._store.find(card_id, name) for name in names)
        return [stored for stored in found if stored]

    async def _choose(self, model_id: str) -> Resident:
        stored = {s.variant.name: s for s in await asyncio.to_thread(self._stored, model_id)}
        if not stored:
            command = "edgeagent models pull " + model_id.replace("/", " --variant ")
            raise ModelNotFoundError(f"no file of {model_id} is here; run '{command}'")
        selection, profile, memory_bytes = await self._settle(next(iter(stored.values())).card, stored)
        chosen = stored[selection.variant]
        if twin := next((r for r in self.residents if _is_of(r, chosen)), None):
            return twin
        drafts = await asyncio.to_thread(self._stored, chosen.card.draft) if chosen.card.draft else []
        resident = self._resident(chosen, selection, profile, memory_bytes, drafts)
        await self._probe_invariance(self._probe(chosen, selection.choice), resident.local)
        if self._config.threads:
            await self.measure(resident)
        resident.hold = self._store.hold(chosen)
        return resident

    async def _settle(self, card: ModelCard, stored: Mapping[str, StoredVariant]) -> tuple[Selection, Profile, int]:
        """A selection whose variant was measured here, and the memory that may be used. What measuring teaches may
        change the selection, a few times.

        One that fits beside the models that have memory; where there is none, one that fits when they are gone.
        """
        sizes = {name: s.bytes for name, s in stored.items()}
        machine = self._describe(await self._read_profile(None))
        limits = replace(self._read_limits(), memory_bytes=self._rooming.beside(card.id))
        try:
            selection = select(card, sizes, machine, limits)
        except OutOfMemoryError:
            limits = replace(limits, memory_bytes=self._rooming.alone(card.id))
            selection = select(card, sizes, machine, limits)
        for _ in range(MAX_TRIES):
            tried = selection.choice
            profile = await self._read_profile(self._probe(stored[tried.variant], tried))
            selection = select(card, sizes, self._describe(profile), limits)
            if (selection.variant, selection.choice.kv_type) == (tried.variant, tried.kv_type):
                return selection, profile, limits.memory_bytes
        profile = await self._read_profile(self._probe(stored[selection.variant], selection.choice))
        return selection, profile, limits.memory_bytes

    async def _probe_invariance(self, probe: ProbeModel, local: LocalModel) -> None:
        """Some seconds, once for a variant under these settings on this machine; then the profile knows."""
        evaluation = evaluation_of(local.settings)
        profile = await self._read_profile(replace(probe, evaluation=evaluation))
        local.set_invariance(verdict(profile, probe.key, evaluation))

    def _probe(self, stored: StoredVariant, choice: Choice) -> ProbeModel:
        return probe_of(stored, choice.kv_type, self._config.chunk_tokens)

    async def measure(self, resident: Resident) -> None:
        """Rates as configured, now: the profile's are at the fastest number of threads. Raises EngineError."""
        async with resident.local.admission.whole():
            prefill, decode = await resident.local.bench(BENCH_PROMPT_TOKENS, BENCH_DECODE_TOKENS)
        measured = {"prefill_tok_s": prefill, "decode_tok_s": decode, "threads": resident.local.settings.threads}
        unknown = {"roofline_fraction": None, "compute_fraction": None, "prompt_tokens": BENCH_PROMPT_TOKENS}
        resident.rates = resident.rates.model_copy(update=measured | unknown)

    def _resident(
        self,
        chosen: StoredVariant,
        selection: Selection,
        profile: Profile,
        memory_bytes: int,
        drafts: Sequence[StoredVariant],
    ) -> Resident:
        rates = _rates(profile, chosen)
        threads = self._config.threads or rates.threads
        loading = loading_of(chosen, selection.choice, profile, self._config, threads, memory_bytes, drafts)
        return Resident(
            card=chosen.card,
            variant=chosen.variant.model_copy(update={"sha256": chosen.sha256, "bytes": chosen.bytes}),
            why=selection.why,
            rates=rates,
            memory_bytes=loading.memory_bytes,
            single_bytes=loading.single_bytes,
            local=LocalModel(
                loading.settings,
                queue=self._config.queue,
                per_user=self._config.user_queue,
                limits=loading.limits,
                step_s=self._config.chunk_tokens / rates.prefill_tok_s,
                store=self._kept,
            ),
            used_at=time.monotonic(),
            position_s=_position_s(profile, chosen, threads),
            find_adapter=partial(self._store.adapter, chosen.card.id, chosen.variant.name),
        )


def _is_of(resident: Resident, stored: StoredVariant) -> bool:
    return (resident.card.id, resident.variant.name) == (stored.card.id, stored.variant.name)


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

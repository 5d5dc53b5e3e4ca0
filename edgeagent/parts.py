"""The parts of a house, each made from the settings alone; `daemon` puts them together."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgeagent.agent.memory.memory import Memory
from edgeagent.core.errors import MemoryStoreError, ModelFileError
from edgeagent.core.governor import Levers
from edgeagent.core.hardware import Profile
from edgeagent.core.memory import Embedder, WordMatcher
from edgeagent.execution.embedding import CPU, Encoder, OnnxEmbedder, choose_provider
from edgeagent.execution.kvstore.folder import forget_all
from edgeagent.execution.kvstore.store import KvLimits, KvStore
from edgeagent.execution.local import LocalModel
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.choosing import probe_of
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_hub import HubFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.pool import ModelPool
from edgeagent.model.quota import Quota
from edgeagent.model.registry import Registry
from edgeagent.model.requantize import ensure_computing_in_int8, spawn_onnx
from edgeagent.model.sketch import describe
from edgeagent.model.store import ModelStore
from edgeagent.resource.boards import Seen, best_match, load_boards
from edgeagent.resource.cache import load_profile
from edgeagent.resource.calibration import Instruments
from edgeagent.resource.capability import ENGINE, ProbeModel, engine_build
from edgeagent.resource.capability.onnxruntime import ENGINE as ONNX
from edgeagent.resource.governor import GovernorLimits
from edgeagent.resource.heat import HeatLimits
from edgeagent.resource.pressure import PressureLimits
from edgeagent.resource.probes.board import read_board
from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.profile import Depth, Effort, Places, ensure_profile, read_machine, with_measured
from edgeagent.resource.sensors import Sensors
from edgeagent.settings import Settings

EMBEDDING_MODEL = "minilm-l6-v2-int8"


def places(settings: Settings) -> Places:
    return Places(settings.paths.state, settings.paths.profile, settings.paths.boards)


def model_store(settings: Settings) -> ModelStore:
    """The models on this machine, and how missing ones are fetched. Raises ConfigError."""
    models, urls = settings.config.models, UrlFetcher()
    fetcher = SourceFetcher(WheelFetcher({}), urls, HubFetcher(urls, models.hub_url, models.hub_token))
    quota = Quota(models.quota_bytes, keep=frozenset({models.default, EMBEDDING_MODEL}))
    registry = overlay.lay_over(Registry.load(settings.paths.cards), settings.paths.models)
    return ModelStore(settings.paths.models, registry, fetcher, quota)


def kv_store(settings: Settings) -> KvStore | None:
    """Where evaluated tokens outlive the workers; None: nowhere."""
    engine = settings.config.engine
    if not engine.kept_memory_bytes:
        return None
    limits = KvLimits(engine.kept_memory_bytes, engine.kept_disk_bytes)
    return KvStore(kv_folder(settings) if engine.kept_disk_bytes else None, limits, time.time)


def kv_folder(settings: Settings) -> Path:
    return settings.paths.state / "kv"


async def spawn_llama() -> Worker:
    """A worker without a model, for what is done with files."""
    return await Worker.spawn("llama")


def selection_limits(settings: Settings) -> Limits:
    """What a variant must respect on this machine now. More memory than is available would mean swapping."""
    config, engine = settings.config, settings.config.engine
    available = read_memory(Sysroot()).available_bytes
    return Limits(
        memory_bytes=min(config.models.memory_limit_bytes or available * 3 // 4, available),
        ttft_s=config.models.latency_target_s,
        context_tokens=config.models.context_tokens,
        kv_type=engine.kv_type,
        quality_floor=config.policy.quality_floor,
        chunk_tokens=engine.chunk_tokens,
        tpot_s=config.models.tpot_target_s,
        min_context_tokens=config.models.min_context_tokens,
        coarse_cache=config.models.coarse_cache,
        objective=config.policy.objective,
        threads=engine.threads or None,
        budget_bytes=config.models.memory_limit_bytes or None,
    )


def known_profile(settings: Settings) -> Profile:
    """This machine as it can be read now, with what was measured of it before. Measures nothing. Raises ConfigError."""
    machine = read_machine(Sysroot(), places(settings), {ENGINE: engine_build()})
    return with_measured(machine, settings.paths.profile) or machine


def selection_machine(settings: Settings, profile: Profile) -> Machine:
    """What decides between variants on the machine of a profile. Raises ConfigError (board files)."""
    return describe(profile, load_boards(settings.paths.boards))


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def engine_threads(settings: Settings) -> int:
    """The configured number of threads, or one for each core this process may use."""
    return settings.config.engine.threads or usable_cores()


def usual_levers(settings: Settings) -> Levers:
    """What the governor leaves alone while nothing is wrong."""
    return Levers(settings.config.engine.kv_type, settings.config.models.context_tokens)


async def profile(settings: Settings, *, refresh: bool = False, effort: Effort | None = None) -> Profile:
    """This machine's profile, measured with the default model if its file is here.

    Raises ConfigError, ModelNotFoundError (unknown default), ModelFileError (its file is bad).
    """
    if effort and effort.depth is Depth.ALL:
        effort = replace(effort, encoder=_encoder_file(settings))
    return await profile_with(settings, probe_model(settings), refresh=refresh, effort=effort)


def _encoder_file(settings: Settings) -> Path | None:
    """The sentence encoder's file, if a sound one is here; a bad one is no reason to know less of the machine."""
    with contextlib.suppress(ModelFileError):
        stored = model_store(settings).find(EMBEDDING_MODEL)
        return stored.path if stored else None
    return None


async def profile_with(
    settings: Settings, model: ProbeModel | None, *, refresh: bool = False, effort: Effort | None = None
) -> Profile:
    instruments = Instruments(time.monotonic)
    return await ensure_profile(
        places(settings), model, refresh=refresh, instruments=instruments, effort=effort or Effort()
    )


def probe_model(settings: Settings) -> ProbeModel | None:
    """The default model's first variant, if its file is here."""
    stored = model_store(settings).find(settings.config.models.default)
    if stored is None:
        return None
    engine = settings.config.engine
    return probe_of(stored, engine.kv_type, engine.chunk_tokens)


def device_id(settings: Settings) -> str:
    """The configured id, or one made once for this state folder."""
    if configured := settings.config.mqtt.device_id:
        return configured
    path = settings.paths.state / "device_id"
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii").strip()
    made = f"edge-{secrets.token_hex(4)}"
    take_device_id(settings, made)
    return made


def take_device_id(settings: Settings, name: str) -> None:
    """Be called that from now on, where the settings say nothing."""
    settings.paths.state.mkdir(parents=True, exist_ok=True)
    (settings.paths.state / "device_id").write_text(name, encoding="ascii")


def governor_limits(settings: Settings) -> GovernorLimits:
    config = settings.config.governor
    return GovernorLimits(
        HeatLimits(margin_c=config.margin_c),
        PressureLimits(
            available_part=config.available_part,
            pressure_percent=config.pressure_percent,
            battery_low_percent=config.battery_low_percent,
            battery_critical_percent=config.battery_critical_percent,
        ),
        saves_energy=settings.config.policy.objective == "energy",
    )


def sensors(settings: Settings, root: Sysroot | None = None) -> Sensors:
    """What the governor reads, of this machine. Raises ConfigError (board files)."""
    root = root or Sysroot()
    board = best_match(load_boards(settings.paths.boards), Seen(read_board(root), os.uname().machine))
    limit = board.thermal.throttle_c.value if board and board.thermal.throttle_c else None
    set_c = settings.config.governor.throttle_c or None
    return Sensors(root, time.monotonic, throttle_c=set_c, board_throttle_c=limit, own_pid=os.getpid())


def embedder(settings: Settings, store: ModelStore) -> OnnxEmbedder:
    """The sentence encoder in its worker; its files are fetched when it is first used."""
    card = store.registry.card(EMBEDDING_MODEL)
    assert card.dimensions is not None

    async def locate() -> Encoder:
        cached = await asyncio.to_thread(load_profile, settings.paths.profile)
        provider = choose_provider(cached.engine(ONNX) if cached else None)
        if provider == CPU:
            stored = await ensure_computing_in_int8(store, EMBEDDING_MODEL, spawn_onnx)
        else:
            stored = await store.ensure(EMBEDDING_MODEL)  # what the profile tried, in the arithmetic that others have
        return Encoder(stored.path, stored.companions["tokenizer.json"], provider)

    return OnnxEmbedder(locate, card.dimensions, idle_unload_s=settings.config.engine.idle_unload_s)


def memory_path(settings: Settings) -> Path:
    return Path(settings.config.memory.path) if settings.config.memory.path else settings.paths.memory


async def memory_of(settings: Settings, vectors: Embedder, matcher: WordMatcher) -> Memory:
    """The memory file. Raises MemoryStoreError."""
    config = settings.config.memory
    return await Memory.open(
        memory_path(settings),
        vectors,
        time.time,
        config.max_memories,
        matcher=matcher if config.rerank else None,
        on_forget=partial(forget_kept, kv_folder(settings)),
    )


def forget_kept(folder: Path) -> None:
    """Delete what the engine keeps of prompts: memories were in them. Raises MemoryStoreError."""
    try:
        forget_all(folder)
    except OSError as error:
        raise MemoryStoreError(
            f"the memory is forgotten, but prompts with it are kept in {folder} ({error.strerror}); delete that folder"
        ) from None


@contextlib.asynccontextmanager
async def open_memory(settings: Settings) -> AsyncIterator[Memory]:
    """The memory file with its encoder. Raises MemoryStoreError."""
    encoder = embedder(settings, model_store(settings))
    try:
        memory = await memory_of(settings, encoder, encoder)
        try:
            yield memory
        finally:
            await memory.close()
    finally:
        await encoder.close()


@contextlib.asynccontextmanager
async def open_model(settings: Settings) -> AsyncIterator[LocalModel | None]:
    """The default chat model, loaded when it is first used; None when no file of it is here.

    Raises ModelFileError, OutOfMemoryError, ConfigError, EngineError.
    """
    store, model = model_store(settings), settings.config.models.default
    pool = ModelPool(
        store,
        settings.config.engine,
        lambda probed: profile_with(settings, probed),
        lambda: selection_limits(settings),
        lambda profile: selection_machine(settings, profile),
    )
    if not pool.has_whole(model):
        yield None
        return
    try:
        async with pool.lease(model) as resident:
            yield resident.whole
    finally:
        await pool.close()

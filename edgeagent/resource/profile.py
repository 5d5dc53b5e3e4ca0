"""The profile: read what can be read, measure once what must be measured, keep it under the machine's fingerprint."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.hardware import EngineFacts, Profile
from edgeagent.resource.boards import load_boards, match_board
from edgeagent.resource.cache import load_profile, measuring, save_profile
from edgeagent.resource.calibration import (
    DISTURBED_FRACTION,
    Instruments,
    buffer_bytes,
    is_disturbed,
    measure_bandwidth,
    measure_rates,
)
from edgeagent.resource.capability import (
    ENGINE,
    NOT_INSTALLED,
    EngineSettings,
    ProbeModel,
    Spawn,
    engine_build,
    is_conclusive,
    probe_engine,
    try_engine,
    untested,
)
from edgeagent.resource.probes.accelerators import read_accelerators
from edgeagent.resource.probes.board import read_board
from edgeagent.resource.probes.cpu import read_cache_bytes, read_cpu
from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.power import read_power
from edgeagent.resource.probes.storage import read_storage
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.probes.thermal import read_thermal

MEMORY_GRAIN_BYTES = 64 * 2**20
"""Total memory enters the fingerprint this coarsely: kernels differ by a few KiB in what they keep for themselves."""


@dataclass(frozen=True, slots=True)
class Places:
    """`state` is where models and memories live, `cache` the profile's file, `boards` the folder of board profiles."""

    state: Path
    cache: Path
    boards: Path


def fingerprint(machine: Profile, engine_builds: dict[str, str]) -> str:
    """A digest of what measurements depend on: CPU, memory, board, engines; of nothing that changes by itself."""
    facts = {
        "cpu": [machine.cpu.model, machine.cpu.arch, machine.cpu.cores, sorted(machine.cpu.features)],
        "memory": round(machine.memory.total_bytes / MEMORY_GRAIN_BYTES),
        "board": machine.board,
        "engines": engine_builds,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_machine(root: Sysroot, places: Places, engine_builds: dict[str, str] | None = None) -> Profile:
    """What the readers find under a sysroot. Starts, measures and writes nothing. Raises ConfigError (board files)."""
    cpu, board = read_cpu(root), read_board(root)
    matched = match_board(load_boards(places.boards), board, cpu.arch)
    machine = Profile(
        fingerprint="",
        board=board,
        board_profile=matched.id if matched else None,
        cpu=cpu,
        memory=read_memory(root),
        accelerators=read_accelerators(root),
        thermal=read_thermal(root),
        power=read_power(root),
        storage=read_storage(root, places.state),
        gaps=root.gaps,
    )
    return machine.model_copy(update={"fingerprint": fingerprint(machine, engine_builds or {})})


async def ensure_profile(
    places: Places, model: ProbeModel | None, *, refresh: bool, instruments: Instruments
) -> Profile:
    """This machine's profile with `model`'s rates; what is missing is measured, and kept for the next call.

    Everything is measured anew on another machine (by its fingerprint) and with `refresh`. Volatile facts are read at
    each call. Without a model the engine stays untested. Raises ConfigError when the profile cannot be kept.
    """
    machine = read_machine(Sysroot(), places, {ENGINE: engine_build()})
    kept = None if refresh else await _kept(machine, places.cache, instruments)
    if kept and _is_complete(kept, model):
        return kept
    async with measuring(places.cache):
        kept = (
            None if refresh else await _kept(machine, places.cache, instruments)
        )  # another process may have been faster
        profile = await _completed(kept or machine, model, instruments)
        save_profile(places.cache, profile)
    return profile


async def _kept(machine: Profile, cache: Path, instruments: Instruments) -> Profile | None:
    """The machine as read now with what was measured before, if that was on this machine."""
    before = load_profile(cache)
    if before is None or before.fingerprint != machine.fingerprint:
        return None
    rates = before.rates
    if any(map(is_disturbed, rates.values())) and (await instruments.busy() or 0.0) <= DISTURBED_FRACTION:
        rates = {key: value for key, value in rates.items() if not is_disturbed(value)}  # it is quiet: measure again
    return _with_bandwidth(machine, before.memory.bandwidth_bytes_s).model_copy(
        update={"engines": before.engines, "rates": rates}
    )


def _is_complete(profile: Profile, model: ProbeModel | None) -> bool:
    engine = profile.engine(ENGINE)
    if profile.memory.bandwidth_bytes_s is None or engine is None:
        return False
    if model is None:
        return True
    return is_conclusive(engine) and (not engine.usable or _has_rates(profile, model))


def _has_rates(profile: Profile, model: ProbeModel) -> bool:
    rates = profile.rates.get(model.key)
    return rates is not None and rates.kv_type == model.kv_type


async def _completed(profile: Profile, model: ProbeModel | None, instruments: Instruments) -> Profile:
    """The profile with all that is missing measured."""
    if profile.memory.bandwidth_bytes_s is None:
        profile = await _add_bandwidth(profile)
    engine = profile.engine(ENGINE)
    if engine is None or (model and not is_conclusive(engine)):
        engine = await _try(model, instruments.spawn)
        profile = profile.model_copy(update={"engines": (engine,)})
    if model and engine.usable and not _has_rates(profile, model):
        profile = await _add_rates(profile, engine, model, instruments)
    return profile


async def _add_bandwidth(profile: Profile) -> Profile:
    size = buffer_bytes(read_cache_bytes(Sysroot()), profile.memory.available_bytes)
    bandwidth = await measure_bandwidth(size, profile.cpu.cores)
    if bandwidth is None:
        return _with_gap(profile, "memory.bandwidth_bytes_s", "unreadable: the measuring process failed")
    return _with_bandwidth(profile, bandwidth)


async def _try(model: ProbeModel | None, spawn: Spawn) -> EngineFacts:
    build = engine_build()
    if build == NOT_INSTALLED:
        return untested(build, "its package is not installed here")
    if model is None:
        return untested(build, "there is no model file to try it with")
    return await probe_engine(lambda settings: try_engine(model, settings, spawn=spawn))


async def _add_rates(profile: Profile, engine: EngineFacts, model: ProbeModel, instruments: Instruments) -> Profile:
    settings, bandwidth = EngineSettings(**engine.probe.settings), profile.memory.bandwidth_bytes_s
    try:
        rates = await measure_rates(
            model, settings, cores=profile.cpu.cores, bandwidth_bytes_s=bandwidth, instruments=instruments
        )
    except EdgeAgentError as error:
        return _with_gap(profile, f"rates.{model.key}", f"unreadable: {error}")
    return profile.model_copy(update={"rates": {**profile.rates, model.key: rates}})


def _with_bandwidth(profile: Profile, bandwidth_bytes_s: float | None) -> Profile:
    memory = profile.memory.model_copy(update={"bandwidth_bytes_s": bandwidth_bytes_s})
    return profile.model_copy(update={"memory": memory})


def _with_gap(profile: Profile, fact: str, why: str) -> Profile:
    return profile.model_copy(update={"gaps": {**profile.gaps, fact: why}})

"""The profile: what was measured once, kept under the machine's fingerprint, and what is missing measured now."""

from pathlib import Path

from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.hardware import EngineFacts, Profile, Rates
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
    refused,
    release_fault,
    try_engine,
    untested,
    with_usable,
)
from edgeagent.resource.deepening import Depth, Effort, deepened
from edgeagent.resource.invariance import is_probed, probed
from edgeagent.resource.machine import Places, fingerprint, read_machine
from edgeagent.resource.probes.cpu import read_cache_bytes
from edgeagent.resource.probes.sysroot import Sysroot

__all__ = ["Depth", "Effort", "Places", "ensure_profile", "fingerprint", "keep_rates", "read_machine", "with_measured"]


async def keep_rates(places: Places, key: str, rates: Rates) -> None:
    """Replace the rates of one variant in the kept profile, if there is one. Raises ConfigError."""
    async with measuring(places.cache):
        if kept := load_profile(places.cache):
            save_profile(places.cache, kept.model_copy(update={"rates": {**kept.rates, key: rates}}))


async def ensure_profile(
    places: Places,
    model: ProbeModel | None,
    *,
    refresh: bool,
    instruments: Instruments,
    effort: Effort = Effort(),  # noqa: B008  (frozen)
) -> Profile:
    """This machine's profile with `model`'s rates; what is missing is measured, and kept for the next call.

    Everything is measured anew on another machine (by its fingerprint) and with `refresh`. Volatile facts are read at
    each call. Without a model the engine stays untested. A pass that is interrupted, or whose budget ends, goes on
    where it was at the next call. Raises ConfigError when the profile cannot be kept.
    """
    machine = read_machine(Sysroot(), places, {ENGINE: engine_build()})
    kept = None if refresh else await _kept(machine, places.cache, instruments)
    if kept and effort.depth is Depth.NEEDED and _is_complete(kept, model):
        return kept
    async with measuring(places.cache):
        kept = (
            None if refresh else await _kept(machine, places.cache, instruments)
        )  # another process may have been faster
        profile = await _completed(kept or machine, model, instruments)
        save_profile(places.cache, profile)
        if effort.depth is Depth.ALL and model:
            profile = await deepened(profile, model, places, instruments, effort)
            save_profile(places.cache, profile)
    return profile if model is None else _with_compute_fraction(profile, model)


def with_measured(machine: Profile, cache: Path) -> Profile | None:
    """The machine as read now with what was measured before; None when that was never, or of another machine."""
    before = load_profile(cache)
    if before is None or before.fingerprint != machine.fingerprint:
        return None
    storage = machine.storage.model_copy(update={"read_bytes_s": before.storage.read_bytes_s})
    return _with_bandwidth(machine, before.memory.bandwidth_bytes_s).model_copy(
        update={
            "engines": before.engines,
            "accelerators": with_usable(machine.accelerators, before.engines),
            "rates": before.rates,
            "invariance": before.invariance,
            "kernels": before.kernels,
            "storage": storage,
        }
    )


async def _kept(machine: Profile, cache: Path, instruments: Instruments) -> Profile | None:
    """The same, without rates that were measured beside other work, once it is quiet: they are measured again."""
    kept = with_measured(machine, cache)
    if kept is None or not any(map(is_disturbed, kept.rates.values())):
        return kept
    if (await instruments.busy() or 0.0) > DISTURBED_FRACTION:
        return kept
    return kept.model_copy(
        update={"rates": {key: rates for key, rates in kept.rates.items() if not is_disturbed(rates)}}
    )


def _is_complete(profile: Profile, model: ProbeModel | None) -> bool:
    engine = profile.engine(ENGINE)
    if profile.memory.bandwidth_bytes_s is None or engine is None:
        return False
    if model is None:
        return True
    return is_conclusive(engine) and (not engine.usable or (_has_rates(profile, model) and is_probed(profile, model)))


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
        others = tuple(e for e in profile.engines if e.name != ENGINE)
        profile = profile.model_copy(update={"engines": (engine, *others)})
    if model and engine.usable and not _has_rates(profile, model):
        profile = await _add_rates(profile, engine, model, instruments)
    if model and engine.usable and not is_probed(profile, model):
        profile = await probed(profile, model, spawn=instruments.spawn)
    return profile


async def _add_bandwidth(profile: Profile) -> Profile:
    size = buffer_bytes(read_cache_bytes(Sysroot()), profile.memory.available_bytes)
    bandwidth = await measure_bandwidth(size, profile.cpu.cores)
    if bandwidth is None:
        return profile.with_gap("memory.bandwidth_bytes_s", "unreadable: the measuring process failed")
    return _with_bandwidth(profile, bandwidth)


async def _try(model: ProbeModel | None, spawn: Spawn) -> EngineFacts:
    build = engine_build()
    if build == NOT_INSTALLED:
        return untested(build, "its package is not installed here")
    if release_fault(build):
        return refused(build)
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
        return profile.with_gap(f"rates.{model.key}", f"unreadable: {error}")
    return profile.model_copy(update={"rates": {**profile.rates, model.key: rates}})


def _with_bandwidth(profile: Profile, bandwidth_bytes_s: float | None) -> Profile:
    memory = profile.memory.model_copy(update={"bandwidth_bytes_s": bandwidth_bytes_s})
    return profile.model_copy(update={"memory": memory})


def _with_compute_fraction(profile: Profile, model: ProbeModel) -> Profile:
    """Prefill against the compute roofline: two operations a weight and token, over the fastest type's rate."""
    rates, kernels = profile.rates.get(model.key), profile.kernels
    if rates is None or kernels is None or not model.active_weights or not kernels.gemm_flop_s:
        return profile
    fraction = 2 * model.active_weights * rates.prefill_tok_s / kernels.gemm_flop_s
    return profile.model_copy(
        update={"rates": {**profile.rates, model.key: rates.model_copy(update={"compute_fraction": fraction})}}
    )

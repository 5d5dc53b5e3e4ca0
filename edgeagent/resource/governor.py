"""The governor's policy: what the engine should give up now, and why. A pure function with hysteresis.

Levers, mildest first: threads, duty (rests between tokens), smaller variant, KV type, context, pause. Heat uses
threads and duty, other programs threads, a battery threads and the variant, memory the rest.
"""

from dataclasses import dataclass, field, replace

from edgeagent.core.cards import KvType
from edgeagent.core.governor import Conditions, EngineAdvice, Levers
from edgeagent.resource.heat import MIN_SHARE, Heat, HeatLimits, duty, hold, observe
from edgeagent.resource.pressure import (
    LoadState,
    MemoryState,
    PressureLimits,
    battery_step,
    load_step,
    memory_step,
)

MAX_GAP_S = 30.0
"""Readings further apart say nothing about each other."""
DUTY_STEP = 0.01
"""Duty is advised this finely: a change below it reaches no worker."""
OVERRUN_S, OVERRUN_RETURN_C = 60.0, 2.0
"""Too hot with the least work for so long: requests wait, until it is so far below what is held."""
MIN_CONTEXT_TOKENS = 1024
THROTTLED_SHARE = 0.75
THROTTLED_RETURN_S = 120.0
SMALLER_KV: dict[KvType, KvType] = {"f16": "q8_0", "q8_0": "q4_0"}
EFFICIENT_MODE = "25W"
MAXIMUM_MODE = "MAXN"
MODE_GAIN = "8 to 35 % more tokens a joule than MAXN (Orin Nano Super, docs/design.md)"


@dataclass(frozen=True, slots=True)
class GovernorLimits:
    heat: HeatLimits = field(default_factory=HeatLimits)
    pressure: PressureLimits = field(default_factory=PressureLimits)
    saves_energy: bool = False
    """Whether requests ask for few joules: then the efficient power mode is advised on mains, too."""


@dataclass(frozen=True, slots=True)
class GovernorState:
    at_s: float | None = None
    heat: Heat = field(default_factory=Heat)
    overrun_since_s: float | None = None
    """Since when it is too hot although the engine does the least."""
    throttled_at_s: float | None = None
    """When the machine last slowed itself far below its heat limit."""
    memory: MemoryState = field(default_factory=MemoryState)
    load: LoadState = field(default_factory=LoadState)
    battery: int = 0


def step(
    state: GovernorState, now: Conditions, levers: Levers, limits: GovernorLimits
) -> tuple[GovernorState, EngineAdvice]:
    """The state after `now`, and what to do. The same input gives the same advice."""
    elapsed_s = 0.0 if state.at_s is None else min(MAX_GAP_S, max(0.0, now.at_s - state.at_s))
    state = replace(_heat_step(state, now, limits.heat, elapsed_s), at_s=now.at_s)
    state = replace(
        state,
        memory=memory_step(state.memory, now, limits.pressure),
        load=load_step(state.load, now, limits.pressure, elapsed_s),
        battery=battery_step(state.battery, now, limits.pressure),
    )
    return state, _advice(state, now, levers, limits)


def _heat_step(state: GovernorState, now: Conditions, limits: HeatLimits, elapsed_s: float) -> GovernorState:
    if now.is_throttled and not state.heat.is_held:
        state = replace(state, throttled_at_s=now.at_s)
    elif state.throttled_at_s is not None and now.at_s - state.throttled_at_s > THROTTLED_RETURN_S:
        state = replace(state, throttled_at_s=None)
    if now.temperature_c is None or now.throttle_c is None:
        return state
    heat = observe(state.heat, now.at_s, now.temperature_c)
    heat = hold(heat, limits, now.throttle_c, busy=now.busy, threads=now.engine_threads, elapsed_s=elapsed_s)
    return replace(state, heat=heat, overrun_since_s=_overrun_since(state, heat, now, limits))


def _overrun_since(state: GovernorState, heat: Heat, now: Conditions, limits: HeatLimits) -> float | None:
    assert now.temperature_c is not None
    assert now.throttle_c is not None
    since = state.overrun_since_s
    if not heat.is_held or now.temperature_c < now.throttle_c - limits.margin_c - OVERRUN_RETURN_C:
        return None
    if since is not None and now.at_s - since >= OVERRUN_S:
        return since
    if heat.share > MIN_SHARE:
        return None
    return now.at_s if since is None and now.temperature_c >= now.throttle_c else since


def _advice(state: GovernorState, now: Conditions, levers: Levers, limits: GovernorLimits) -> EngineAdvice:
    found = [
        _heat_advice(state, now),
        _throttle_advice(state, now),
        _load_advice(state, now),
        _battery_advice(state, now, levers),
        *_memory_advice(state, now, levers),
        _mode_advice(state, now, limits),
    ]
    return _merged([advice for advice in found if advice is not None])


def _merged(found: list[EngineAdvice]) -> EngineAdvice:
    """All at once: of each lever the strictest."""
    threads = [a.threads for a in found if a.threads is not None]
    return EngineAdvice(
        threads=min(threads, default=None),
        duty=min((a.duty for a in found), default=1.0),
        smaller_variant=any(a.smaller_variant for a in found),
        kv_type=next((a.kv_type for a in found if a.kv_type), None),
        context_tokens=min((a.context_tokens for a in found if a.context_tokens), default=None),
        pause=any(a.pause for a in found),
        power_mode=next((a.power_mode for a in found if a.power_mode), None),
        reasons=tuple(reason for a in found for reason in a.reasons),
    )


def _heat_advice(state: GovernorState, now: Conditions) -> EngineAdvice | None:
    heat = state.heat
    if not heat.is_held or now.temperature_c is None or now.throttle_c is None:
        return None
    used = heat.threads or now.engine_threads
    share = round(duty(heat, now.engine_threads) / DUTY_STEP) * DUTY_STEP
    told = f"the machine is at {now.temperature_c:.0f} °C and slows down at {now.throttle_c:.0f} °C"
    if state.overrun_since_s is not None and now.at_s - state.overrun_since_s >= OVERRUN_S:
        why = f"{told} although the engine hardly works; requests wait until it is cooler"
        return EngineAdvice(threads=used, duty=share, pause=True, reasons=(why,))
    part = f"{used} of {now.engine_threads} threads" + ("" if share >= 1 else f", {share:.0%} of the time")
    return EngineAdvice(threads=used, duty=share, reasons=(f"{told}: the engine runs with {part}",))


def _throttle_advice(state: GovernorState, now: Conditions) -> EngineAdvice | None:
    if state.throttled_at_s is None or state.heat.is_held:
        return None
    threads = max(1, int(now.engine_threads * THROTTLED_SHARE))
    why = f"the machine slows itself down, below any heat limit known here: the engine runs with {threads} threads"
    return EngineAdvice(threads=threads, reasons=(f"{why}; check its power supply",))


def _load_advice(state: GovernorState, now: Conditions) -> EngineAdvice | None:
    if not state.load.yielded:
        return None
    threads = max(1, now.engine_threads - state.load.yielded)
    cores = state.load.smooth_cores or 0.0
    why = f"other programs use {cores:.1f} of {now.cores} cores: the engine runs with {threads} threads"
    return EngineAdvice(threads=threads, reasons=(why,))


def _battery_advice(state: GovernorState, now: Conditions, levers: Levers) -> EngineAdvice | None:
    if not state.battery:
        return None
    threads = max(1, now.engine_threads // 2)
    smaller = state.battery > 1 and levers.has_smaller_variant
    told = f"the battery is at {now.battery_percent or 0:.0f} %: the engine runs with {threads} threads"
    why = told + (" and a smaller variant" if smaller else "")
    return EngineAdvice(threads=threads, smaller_variant=smaller, reasons=(why,))


def _memory_advice(state: GovernorState, now: Conditions, levers: Levers) -> list[EngineAdvice]:
    level = state.memory.level
    if not level:
        return []
    taken = [advice for advice in _memory_levers(levers) if advice is not None][:level]
    why = f"memory is short ({_memory_told(now)}): " + ", ".join(reason for a in taken for reason in a.reasons)
    return [replace(advice, reasons=(why,) if i == 0 else ()) for i, advice in enumerate(taken)]


def _memory_levers(levers: Levers) -> list[EngineAdvice | None]:
    """What there is to give, mildest first; a lever that this setup does not have is left out."""
    smaller_kv, context = SMALLER_KV.get(levers.kv_type), max(MIN_CONTEXT_TOKENS, levers.context_tokens // 2)
    return [
        EngineAdvice(smaller_variant=True, reasons=("a smaller variant",)) if levers.has_smaller_variant else None,
        EngineAdvice(kv_type=smaller_kv, reasons=(f"{smaller_kv} cache",)) if smaller_kv else None,
        EngineAdvice(context_tokens=context, reasons=(f"context of {context} tokens",))
        if context < levers.context_tokens
        else None,
        EngineAdvice(pause=True, reasons=("requests wait",)),
    ]


def _memory_told(now: Conditions) -> str:
    facts = []
    if now.available_bytes is not None:
        facts.append(f"{now.available_bytes / 2**20:.0f} MiB available")
    if now.pressure_percent is not None:
        facts.append(f"tasks waited {now.pressure_percent:.0f} % of the time")
    if now.swapped_bytes:
        facts.append(f"{now.swapped_bytes / 2**20:.0f} MiB swapped out")
    return ", ".join(facts) or "the kernel says so"


def _mode_advice(state: GovernorState, now: Conditions, limits: GovernorLimits) -> EngineAdvice | None:
    """A Jetson in its maximum mode where joules or heat count."""
    mode = next((m for m in now.power_modes if EFFICIENT_MODE in m), None)
    if mode is None or MAXIMUM_MODE not in (now.power_mode or ""):
        return None
    if now.is_discharging:
        why = "it runs on its battery"
    elif state.heat.is_held:
        why = "it is hot"
    elif limits.saves_energy:
        why = "requests are to save energy"
    else:
        return None
    return EngineAdvice(
        power_mode=mode, reasons=(f"power mode {mode} would serve better than {now.power_mode}, as {why}: {MODE_GAIN}",)
    )

"""How far to give way to memory pressure, to other programs and to an empty battery. Pure, with hysteresis."""

from dataclasses import dataclass, replace

from edgeagent.core.governor import Conditions

MEMORY_LEVELS = 4
"""1 smaller variant, 2 smaller KV type, 3 shorter context, 4 pause."""


@dataclass(frozen=True, slots=True)
class PressureLimits:
    """Pressed: available memory below `available_part`, or waiting above `pressure_percent`, or swap that grows."""

    available_part: float = 0.06
    pressure_percent: float = 10.0
    swap_growth_bytes: int = 64 * 2**20
    press_hold_s: float = 15.0
    """Pressure must last so long before one level more is given."""
    relax_hold_s: float = 300.0
    """Ease must last so long before a level is taken back; it doubles each time that proved too early."""
    max_relax_hold_s: float = 3600.0
    battery_low_percent: float = 20.0
    battery_critical_percent: float = 8.0
    battery_return_percent: float = 5.0
    """So far above the limit a level of the battery ends."""
    load_hold_s: float = 15.0
    load_return_s: float = 60.0


@dataclass(frozen=True, slots=True)
class MemoryState:
    level: int = 0
    pressed_since_s: float | None = None
    eased_since_s: float | None = None
    relaxed_at_s: float | None = None
    relax_hold_s: float = 0.0
    swapped_bytes: int | None = None
    """Swap in use when it last was no worse: growth counts from here."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """`yielded`: threads left to other programs."""

    yielded: int = 0
    wanted: int = 0
    since_s: float = 0.0
    smooth_cores: float | None = None


def memory_step(state: MemoryState, now: Conditions, limits: PressureLimits) -> MemoryState:
    """One level up after lasting pressure, one down after lasting ease, in between nothing."""
    base = now.swapped_bytes if state.swapped_bytes is None else min(state.swapped_bytes, now.swapped_bytes)
    state = replace(state, swapped_bytes=base)
    if _is_pressed(state, now, limits):
        since = now.at_s if state.pressed_since_s is None else state.pressed_since_s
        state = replace(state, pressed_since_s=since, eased_since_s=None)
        return _harder(state, now, limits) if now.at_s - since >= limits.press_hold_s else state
    if not _is_eased(now, limits):
        return replace(state, pressed_since_s=None, eased_since_s=None)
    since = now.at_s if state.eased_since_s is None else state.eased_since_s
    state = replace(state, pressed_since_s=None, eased_since_s=since)
    hold = state.relax_hold_s or limits.relax_hold_s
    if state.level and now.at_s - since >= hold:
        return replace(state, level=state.level - 1, eased_since_s=now.at_s, relaxed_at_s=now.at_s, relax_hold_s=hold)
    return state


def _is_pressed(state: MemoryState, now: Conditions, limits: PressureLimits) -> bool:
    scarce = _available_part(now) < limits.available_part
    waiting = (now.pressure_percent or 0.0) >= limits.pressure_percent
    swapping = now.swapped_bytes - (state.swapped_bytes or 0) >= limits.swap_growth_bytes
    return scarce or waiting or swapping


def _is_eased(now: Conditions, limits: PressureLimits) -> bool:
    return (
        _available_part(now) > 2 * limits.available_part
        and (now.pressure_percent or 0.0) < limits.pressure_percent / 10
    )


def _available_part(now: Conditions) -> float:
    if now.available_bytes is None or not now.total_bytes:
        return 1.0
    return now.available_bytes / now.total_bytes


def _harder(state: MemoryState, now: Conditions, limits: PressureLimits) -> MemoryState:
    hold = state.relax_hold_s or limits.relax_hold_s
    if state.relaxed_at_s is not None and now.at_s - state.relaxed_at_s < limits.max_relax_hold_s:
        hold = min(limits.max_relax_hold_s, 2 * hold)
    return replace(
        state,
        level=min(MEMORY_LEVELS, state.level + 1),
        pressed_since_s=now.at_s,
        relaxed_at_s=None,
        relax_hold_s=hold,
        swapped_bytes=now.swapped_bytes,
    )


def load_step(state: LoadState, now: Conditions, limits: PressureLimits, elapsed_s: float) -> LoadState:
    """Leave a thread for each core that others keep busy, once that has lasted."""
    if now.other_cores is None:
        return state
    before = now.other_cores if state.smooth_cores is None else state.smooth_cores
    smooth = before + (now.other_cores - before) * min(1.0, elapsed_s / limits.load_hold_s)
    spare = max(0, now.cores - now.engine_threads)
    wanted = max(0, min(now.engine_threads - 1, round(smooth) - spare))
    state = replace(state, smooth_cores=smooth)
    if wanted == state.yielded:
        return replace(state, wanted=wanted, since_s=now.at_s)
    if wanted != state.wanted:
        return replace(state, wanted=wanted, since_s=now.at_s)
    hold = limits.load_hold_s if wanted > state.yielded else limits.load_return_s
    return replace(state, yielded=wanted) if now.at_s - state.since_s >= hold else state


def battery_step(level: int, now: Conditions, limits: PressureLimits) -> int:
    """0 well or on mains, 1 low, 2 critical."""
    if not now.is_discharging or now.battery_percent is None:
        return 0
    bounds = (limits.battery_low_percent, limits.battery_critical_percent)
    reached = sum(now.battery_percent <= bound for bound in bounds)
    kept = sum(now.battery_percent <= bound + limits.battery_return_percent for bound in bounds)
    return max(reached, min(level, kept))

"""Holds a temperature: how much of the engine may run so that the machine stays just below its throttle point. Pure.

A proportional-integral controller in velocity form, scaled by the machine's own heating rate. It needs no thermal
model: how fast the machine heats up under full load is seen at the first burst.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

WINDOW_S = 30.0
"""A line through the readings of so long gives level and slope, in spite of zones that tell whole degrees."""
LONG_WINDOW_S = 60.0
"""For the slopes that the first share is taken from, which must be truer and may be later."""
MIN_READINGS = 4
OFF_TARGET_C = 0.6
"""So far off what is held (the noise seldom gets there), the quicker trend is followed instead of the steadier one."""
HOT_C, HOT_GAIN = 1.0, 2.0
"""So far above what is held, a correction is so much stronger, and nothing is left alone."""
RESPONSE_S = 45.0
"""Closed-loop time constant: twice the delay of the window or more, far below a board's own minutes."""
RESET_RATIO = 4.0
"""Integral time over response time; 4 is critical damping of an integrating plant (Skogestad, J. Process Control
13(4), 2003)."""
GUESSED_RISE_C_S = 0.2
"""Heating rate at full load before one was seen: a bare Raspberry Pi 5's (see docs/governor.md)."""
RISE_LIMITS_C_S = (0.02, 1.0)
HOT_START_SHARE = 0.5
"""Most of the engine at first on a machine that is too hot already, for whatever reason."""
STEEPER = 1.2
MIN_SPAN_C = 8.0
"""Degrees between two slopes, below which a line through them says nothing."""
MIN_SHARE = 0.08
LEVEL_REST_C, SLOPE_REST_C_S = 0.5, 0.008
"""Deviations so small are left alone: a constant share settles by itself, and the sensor's noise is of that size."""
THREAD_MARGIN = 0.15
"""Threads that the wanted share must be off the present count before the count follows."""
THREAD_HOLD_S = 60.0
IDLE_BUSY, FULL_BUSY = 0.05, 0.9
LEARN_S = 55.0
"""Readings over less time say too little about a slope."""


@dataclass(frozen=True, slots=True)
class HeatLimits:
    """`margin_c`: held so far below the throttle point. `release_c`: let go again so far below what is held."""

    margin_c: float = 1.5
    release_c: float = 8.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through readings: `level_c` is its value now."""

    level_c: float
    slope_c_s: float
    mean_c: float
    start_c: float


@dataclass(frozen=True, slots=True)
class Heat:
    """The controller's memory. Shares are in full engines: 1 is every thread all the time."""

    readings: tuple[tuple[float, float], ...] = ()
    early: Trend | None = None
    """The first minute under full load."""
    is_held: bool = False
    share: float = 1.0
    threads: int | None = None
    mismatch_since_s: float | None = None


def observe(heat: Heat, at_s: float, temperature_c: float) -> Heat:
    """With one reading more. A gap in the readings (the governor slept) starts the window anew."""
    fresh = tuple((t, c) for t, c in heat.readings if at_s - LONG_WINDOW_S <= t < at_s)
    return replace(heat, readings=(*fresh, (at_s, temperature_c)))


def trend(readings: Sequence[tuple[float, float]], window_s: float = WINDOW_S) -> Trend | None:
    """Level now and slope, by least squares; None while there are too few readings."""
    readings = [(t, c) for t, c in readings if t >= readings[-1][0] - window_s]
    if len(readings) < MIN_READINGS:
        return None
    now = readings[-1][0]
    mean_t = sum(t - now for t, _ in readings) / len(readings)
    mean_c = sum(c for _, c in readings) / len(readings)
    spread = sum((t - now - mean_t) ** 2 for t, _ in readings)
    slope = sum((t - now - mean_t) * (c - mean_c) for t, c in readings) / spread if spread else 0.0
    start_t = readings[0][0] - now
    return Trend(mean_c - slope * mean_t, slope, mean_c, mean_c + slope * (start_t - mean_t))


def hold(heat: Heat, limits: HeatLimits, throttle_c: float, *, busy: float, threads: int, elapsed_s: float) -> Heat:
    """The controller after the newest reading. `threads` is all the engine may use."""
    target_c = throttle_c - limits.margin_c
    now = _nearest(heat, target_c)
    if now is None:
        return heat
    heat = _learned(heat, busy)
    if not heat.is_held:
        return _engaged(heat, now, target_c, threads) if _will_pass(now, target_c, busy) else heat
    if now.level_c < target_c - limits.release_c:
        return replace(heat, is_held=False, share=1.0, threads=None, mismatch_since_s=None)
    if busy < IDLE_BUSY:  # it cools by itself: what is seen now says nothing about the share
        return heat
    return _with_threads(_steered(heat, now, target_c, busy, threads, elapsed_s), heat.readings[-1][0], threads)


def _nearest(heat: Heat, target_c: float) -> Trend | None:
    """The steadier of the two trends near the target, the quicker one off it."""
    quick = trend(heat.readings)
    if quick is None or not heat.is_held or abs(quick.level_c - target_c) > OFF_TARGET_C:
        return quick
    return trend(heat.readings, LONG_WINDOW_S)


def duty(heat: Heat, threads: int) -> float:
    """Share of the time that the chosen threads compute."""
    used = heat.threads or threads
    return min(1.0, heat.share * threads / used)


def _learned(heat: Heat, busy: float) -> Heat:
    """Keeps the steepest minute under full load: nearest to the balance that the load broke."""
    long = trend(heat.readings, LONG_WINDOW_S)
    seen_s = heat.readings[-1][0] - heat.readings[0][0]
    if heat.is_held or busy < FULL_BUSY or long is None or seen_s < LEARN_S:
        return heat
    steeper = heat.early is None or long.slope_c_s > heat.early.slope_c_s * STEEPER
    return replace(heat, early=long) if steeper else heat


def rise_c_s(heat: Heat) -> float:
    """Heating rate of full load alone, as far as it was seen."""
    low, high = RISE_LIMITS_C_S
    return GUESSED_RISE_C_S if heat.early is None else min(high, max(low, heat.early.slope_c_s))


def _will_pass(now: Trend, target_c: float, busy: float) -> bool:
    """Whether the target is reached within the time that a correction takes to show."""
    ahead_s = WINDOW_S / 2 if busy >= IDLE_BUSY else 0.0
    return now.level_c + max(0.0, now.slope_c_s) * ahead_s >= target_c


def _engaged(heat: Heat, now: Trend, target_c: float, threads: int) -> Heat:
    ceiling = 1.0 if now.level_c < target_c else HOT_START_SHARE
    share = min(ceiling, max(MIN_SHARE, _first_share(heat, trend(heat.readings, LONG_WINDOW_S) or now, target_c)))
    # The readings so far rose under full load; they would be taken for an effect of the new share.
    return replace(heat, readings=(), is_held=True, share=share, threads=_fewest(share * threads))


def _first_share(heat: Heat, late: Trend, target_c: float) -> float:
    """What is left to spend at the target: 1 - slope there / slope at the start.

    dT/dt = k share - (T - rest) / tau: under full load the slope falls linearly with temperature, from k where the
    load met a machine in balance. Two slopes give the line.
    """
    early = heat.early
    if early is None or late.mean_c - early.mean_c < MIN_SPAN_C:
        return 1.0 - late.slope_c_s / rise_c_s(heat)
    fall = (late.slope_c_s - early.slope_c_s) / (late.mean_c - early.mean_c)
    at_start, at_target = (early.slope_c_s + fall * (c - early.mean_c) for c in (early.start_c, target_c))
    return 1.0 - at_target / max(RISE_LIMITS_C_S[0], at_start)


def _steered(heat: Heat, now: Trend, target_c: float, busy: float, threads: int, elapsed_s: float) -> Heat:
    is_hot = now.level_c > target_c + HOT_C
    gain = (HOT_GAIN if is_hot else 1.0) / (rise_c_s(heat) * RESPONSE_S)
    level_rest, slope_rest = (0.0, 0.0) if is_hot else (LEVEL_REST_C, SLOPE_REST_C_S)
    missing_c, slope_c_s = beyond(target_c - now.level_c, level_rest), beyond(now.slope_c_s, slope_rest)
    correction = gain * (missing_c / (RESET_RATIO * RESPONSE_S) - slope_c_s) * elapsed_s
    if correction > 0:
        correction *= busy  # a half idle engine is cooler than its share would make it
    ceiling = min(1.0, ((heat.threads or threads) + 2 * THREAD_MARGIN) / threads)  # no wind-up past what can be done
    return replace(heat, share=min(ceiling, max(MIN_SHARE, heat.share + correction)))


def beyond(value: float, rest: float) -> float:
    """What of a value lies outside of +-rest."""
    return max(0.0, value - rest) + min(0.0, value + rest)


def _with_threads(heat: Heat, at_s: float, threads: int) -> Heat:
    """The fewest threads that make the share, after the need for another number has lasted."""
    used, wanted = heat.threads or threads, heat.share * threads
    fits = used - 1 - THREAD_MARGIN < wanted < used + THREAD_MARGIN or (used == threads and wanted >= used)
    if fits:
        return replace(heat, mismatch_since_s=None)
    since = at_s if heat.mismatch_since_s is None else heat.mismatch_since_s
    if at_s - since < THREAD_HOLD_S:
        return replace(heat, mismatch_since_s=since)
    return replace(heat, threads=min(threads, _fewest(wanted)), mismatch_since_s=None)


def _fewest(wanted: float) -> int:
    return max(1, math.ceil(wanted - 1e-9))

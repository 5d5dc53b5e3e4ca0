"""The governor's word in `edgeagent doctor`: what it would hold back now, and why."""

import time

from edgeagent.cli.checks import GIB, Check
from edgeagent.core.governor import Conditions, EngineAdvice
from edgeagent.resource.governor import GovernorState, step
from edgeagent.resource.sensors import Engine
from edgeagent.settings import Settings

READINGS, BETWEEN_S = 5, 0.2
"""A level needs a few readings."""


def check_governor(settings: Settings) -> Check:
    """The policy on the machine as it is in this second: what must last before it acts shows only in a daemon."""
    if not settings.config.governor.enabled:
        return Check("governor", "ok", "switched off")
    conditions, advice = advise_now(settings)
    if advice.is_neutral:
        return Check("governor", "ok", f"nothing holds the engine back: {_told(conditions)}")
    return Check("governor", "warn", "; ".join(advice.reasons).replace("; ", ", "))


def advise_now(settings: Settings) -> tuple[Conditions, EngineAdvice]:
    """Some readings and the advice after them. Raises ConfigError (board files)."""
    from edgeagent import parts

    cores, threads = parts.usable_cores(), parts.engine_threads(settings)
    sensors, limits, state = parts.sensors(settings), parts.governor_limits(settings), GovernorState()
    levers = parts.usual_levers(settings)
    for _ in range(READINGS):
        conditions = sensors.read(Engine((), threads, cores, float(threads)))
        state, advice = step(state, conditions, levers, limits)
        time.sleep(BETWEEN_S)
    return conditions, advice


def _told(now: Conditions) -> str:
    facts = []
    if now.temperature_c is not None:
        limit = f", slows down at {now.throttle_c:.0f} °C" if now.throttle_c else ", no limit known"
        facts.append(f"{now.temperature_c:.0f} °C{limit}")
    if now.available_bytes is not None:
        facts.append(f"{now.available_bytes / GIB:.1f} GiB available")
    if now.battery_percent is not None:
        facts.append(f"battery at {now.battery_percent:.0f} %")
    return ", ".join(facts) or "nothing can be read"

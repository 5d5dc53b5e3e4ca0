"""Applies the governor's advice to the models in use: threads and rests at once, the rest between requests."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from edgeagent.core.config import GovernorConfig
from edgeagent.core.governor import EngineAdvice, Levers
from edgeagent.model.limits import Limits
from edgeagent.model.resident import Resident
from edgeagent.resource.governor import GovernorLimits, GovernorState, step
from edgeagent.resource.sensors import Engine, Sensors

log = logging.getLogger(__name__)

MAX_REMEMBERED = 64
PRESSED_IDLE_S = 15.0
"""Under memory pressure, models that nobody used for so long end."""
LEAST_DUTY_STEP = 0.05
"""Duty that has moved by less reaches no worker."""

SwitchMode = Callable[[str], Awaitable[str | None]]
"""Switches the board's power mode; returns why it could not."""


class Pool(Protocol):
    """What is governed: see `pool.ModelPool`."""

    on_use: Callable[[], None]

    @property
    def residents(self) -> list[Resident]: ...

    def smaller(self, resident: Resident) -> int | None: ...

    async def rechoose(self) -> None: ...

    async def release_idle(self, unused_s: float) -> None: ...


class Governing:
    """Runs the policy while a model is loaded; asleep, without wake-ups, while none is."""

    def __init__(
        self,
        config: GovernorConfig,
        limits: GovernorLimits,
        sensors: Sensors,
        pool: Pool,
        *,
        usual: Levers,
        cores: int,
        switch_mode: SwitchMode | None = None,
    ) -> None:
        self._config = config
        self._limits = limits
        self._sensors = sensors
        self._pool = pool
        self._usual = usual
        self._cores = cores
        self._switch_mode = switch_mode
        self._state = GovernorState()
        self._awake = asyncio.Event()
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._wanted_duty = 1.0
        self._chosen_under = EngineAdvice()
        self.memory_cap: int | None = None
        """What a variant chosen now may take; None: nothing but the usual limits."""
        self._tried_modes: set[str] = set()
        self._told: deque[tuple[float, tuple[str, ...]]] = deque([(0.0, ())], maxlen=MAX_REMEMBERED)
        self.advice = EngineAdvice()
        self._is_discharging = False
        pool.on_use = self._awake.set

    async def run(self) -> None:
        """For ever: read, decide, apply."""
        while self._config.enabled:
            await self._awake.wait()
            for resident in self._pool.residents:
                for model in resident.models:
                    model.on_load = lambda pid: self._awake.set()
            if any(resident.local.is_loaded for resident in self._pool.residents):
                await self.observe()
                await asyncio.sleep(self._config.interval_s)
            else:
                self._awake.clear()
                self._may_start.set()  # nobody looks any more: a pause would have no end

    async def observe(self) -> None:
        """One reading and its consequences."""
        conditions = await asyncio.to_thread(self._sensors.read, self._engine())
        self._is_discharging = conditions.is_discharging
        self._state, advice = step(self._state, conditions, self._levers(), self._limits)
        await self._apply(advice)
        if _slow(advice) != _slow(EngineAdvice()):
            await self._pool.release_idle(PRESSED_IDLE_S)

    async def admit(self, wait_s: float | None = None) -> None:
        """Before a request: wait out a pause, at most `wait_s`, and let slow levers take effect."""
        bound_s = self._config.max_pause_s if wait_s is None else min(wait_s, self._config.max_pause_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                await self._may_start.wait()
        if _slow(self.advice) != _slow(self._chosen_under):
            self.memory_cap = self._cap() if self.advice.smaller_variant else None
            self._chosen_under = self.advice
            await self._pool.rechoose()

    async def idle_hindrance(self) -> str | None:
        """Why work that nobody waits for should not be done now; None: nothing is in its way."""
        if not self._config.enabled:
            return None
        if not any(resident.local.is_loaded for resident in self._pool.residents):
            await self.observe()  # nobody else does
        if self.advice.holds_back:
            return self.advice.reasons[0]
        return "the machine runs on its battery" if self._is_discharging else None

    def narrowed(self, limits: Limits) -> Limits:
        """The limits that a choice must respect under the advice that requests run with."""
        under = self._chosen_under
        cap = limits.memory_bytes if self.memory_cap is None else min(limits.memory_bytes, self.memory_cap)
        context = min(limits.context_tokens, under.context_tokens or limits.context_tokens)
        return replace(limits, memory_bytes=cap, context_tokens=context, kv_type=under.kv_type or limits.kv_type)

    def reasons_since(self, at_s: float) -> tuple[str, ...]:
        """What held the engine back at some time since, each sentence once: the newest of each kind."""
        in_force = [reasons for told_s, reasons in self._told if told_s <= at_s][-1:]
        later = [reasons for told_s, reasons in self._told if told_s > at_s]
        return tuple(dict.fromkeys(reason for reasons in (*in_force, *later) for reason in reasons))

    def _engine(self) -> Engine:
        loaded = [resident for resident in self._pool.residents if resident.local.is_loaded]
        threads = max((resident.local.settings.threads for resident in loaded), default=1)
        pids = [pid for resident in loaded for pid in resident.pids]
        return Engine(tuple(pids), threads, self._cores, (self.advice.threads or threads) * self.advice.duty)

    def _levers(self) -> Levers:
        """What requests run with when nothing is wrong, also while something is."""
        resident = self._main()
        smaller = self.memory_cap is not None or (resident is not None and self._pool.smaller(resident) is not None)
        return replace(self._usual, has_smaller_variant=smaller)

    def _main(self) -> Resident | None:
        return max(self._pool.residents, key=lambda resident: resident.used_at, default=None)

    def _cap(self) -> int | None:
        """Memory that leaves out the variant in use and lets the next smaller one in; None: there is none."""
        resident = self._main()
        smaller = self._pool.smaller(resident) if resident else None
        if resident is None or smaller is None or resident.variant.bytes is None:
            return None
        return (resident.single_bytes or resident.memory_bytes) - (resident.variant.bytes - smaller) // 2

    async def _apply(self, advice: EngineAdvice) -> None:
        before, self.advice = self.advice, advice
        (self._may_start.clear if advice.pause else self._may_start.set)()
        if _kind(before) != _kind(advice):
            self._told.append((time.monotonic(), advice.reasons))
            why = "; ".join(advice.reasons) or "nothing holds the engine back"
            log.warning("governor: %s", why, extra={"threads": advice.threads, "duty": round(advice.duty, 2)})
        if abs(advice.duty - self._wanted_duty) >= LEAST_DUTY_STEP or advice.duty in (1.0, 0.0):
            self._wanted_duty = advice.duty
        for resident in self._pool.residents:
            await self._pace(resident, advice)
        await self._switch(advice)

    async def _pace(self, resident: Resident, advice: EngineAdvice) -> None:
        """Tells its workers, and the planner through the rates: slower here may mean faster elsewhere."""
        usual = resident.local.settings.threads
        threads = min(usual, advice.threads or usual)
        if resident.pace == (threads, self._wanted_duty):
            return
        resident.pace = (threads, self._wanted_duty)
        for model in resident.models:
            await model.set_pace(threads, self._wanted_duty)
        full = resident.full_rates = resident.full_rates or resident.rates
        part = threads / usual * self._wanted_duty  # at worst: memory-bound decoding loses less from fewer threads
        slower = {"prefill_tok_s": full.prefill_tok_s * part, "decode_tok_s": full.decode_tok_s * part}
        resident.rates = full if part == 1 else full.model_copy(update=slower)

    async def _switch(self, advice: EngineAdvice) -> None:
        mode = advice.power_mode
        if self._switch_mode is None or mode is None or mode in self._tried_modes:
            return
        self._tried_modes.add(mode)
        failure = await self._switch_mode(mode)
        log.warning("governor: power mode %s %s", mode, f"not set: {failure}" if failure else "set")


def _slow(advice: EngineAdvice) -> tuple[object, ...]:
    """The levers that need another choice of variant or another load."""
    return (advice.smaller_variant, advice.kv_type, advice.context_tokens)


def _kind(advice: EngineAdvice) -> tuple[object, ...]:
    """What makes advice worth telling anew: not each percent of duty."""
    return (advice.threads, round(advice.duty * 4), advice.pause, advice.power_mode, *_slow(advice))

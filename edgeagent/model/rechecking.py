"""Measures a model's rates again when answers have lately been much slower or faster than they say."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from edgeagent.core.errors import BusyError, EngineError, OutOfMemoryError
from edgeagent.core.hardware import Rates
from edgeagent.model.resident import Resident
from edgeagent.resource.drift import Drift, Sample

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""A model that nobody used for so long is measured; it takes a second or two."""

KeepRates = Callable[[str, Rates], Awaitable[None]]
"""Puts the rates of `<model id>/<variant>` into the kept profile."""


class Pool(Protocol):
    """What is rechecked: see `pool.ModelPool`."""

    @property
    def residents(self) -> list[Resident]: ...

    async def measure(self, resident: Resident) -> None: ...


class Rechecking:
    """Takes a sample of every local answer; asleep, without wake-ups, until some model has drifted."""

    def __init__(self, pool: Pool, keep: KeepRates) -> None:
        self._pool = pool
        self._keep = keep
        self._drifted = asyncio.Event()

    def note(self, resident: Resident, sample: Sample) -> None:
        """Answers that the governor slowed down say nothing of the machine."""
        if resident.pace is None:
            resident.drift = resident.drift.with_sample(sample)
            if resident.drift.is_drifted:
                self._drifted.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._drifted.wait()
            await asyncio.sleep(QUIET_S)
            for resident in [r for r in self._pool.residents if r.drift.is_drifted]:
                if time.monotonic() - resident.used_at >= QUIET_S and not resident.is_in_use:
                    with contextlib.suppress(EngineError, BusyError, OutOfMemoryError):  # later, then
                        await self._measure(resident)
            if not any(r.drift.is_drifted for r in self._pool.residents):
                self._drifted.clear()

    async def _measure(self, resident: Resident) -> None:
        factor, before = resident.drift.factor, resident.rates
        await self._pool.measure(resident)
        resident.drift = Drift()
        key = f"{resident.card.id}/{resident.variant.name}"
        log.info(
            "rates measured again",
            extra={
                "model": key,
                "slower_by": round(factor, 2),
                "prefill_tok_s": round(resident.rates.prefill_tok_s, 1),
                "before": round(before.prefill_tok_s, 1),
            },
        )
        await self._keep(key, resident.rates)

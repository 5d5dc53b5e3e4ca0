"""Makes room in memory for a model: unloads what nobody uses, waits for what somebody uses."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edgeagent.core.errors import BusyError, OutOfMemoryError
from edgeagent.execution.vitals import resident_bytes
from edgeagent.model.budget import Holding, Room, admit, tell
from edgeagent.model.explain import megabytes
from edgeagent.model.limits import Limits

log = logging.getLogger(__name__)

LOOK_S = 0.1
SETTLE_S = 2.0
"""A model that was promised memory counts as in use for so long: its request is about to start the worker."""


class Tenant(Protocol):
    """See `pool.Resident`."""

    memory_bytes: int
    used_at: float
    is_promised: bool

    @property
    def name(self) -> str: ...

    @property
    def is_in_use(self) -> bool: ...

    @property
    def is_loaded(self) -> bool: ...

    @property
    def pids(self) -> tuple[int, ...]: ...

    async def unload(self) -> None: ...


class Rooming:
    """Promises memory to one model at a time."""

    def __init__(self, tenants: Callable[[], Sequence[Tenant]], read_limits: Callable[[], Limits]) -> None:
        self._tenants = tenants
        self._read_limits = read_limits
        self._turn = asyncio.Lock()

    async def admit(self, wanted: Tenant, wait_s: float) -> None:
        """Memory for `wanted` is free, or promised to it already, when this returns.

        Raises BusyError when models in use did not leave room in time, OutOfMemoryError when they could not.
        """
        deadline = time.monotonic() + wait_s
        while not await self._try(wanted):
            if time.monotonic() >= deadline:
                raise BusyError(self._no_room(wanted, wait_s))
            await asyncio.sleep(LOOK_S)

    async def _try(self, wanted: Tenant) -> bool:
        async with self._turn:
            if wanted.is_loaded or wanted.is_promised:
                wanted.is_promised = True
                return True
            others = {id(holding := holding_of(t)): (holding, t) for t in self._others([wanted])}
            found = admit(wanted.memory_bytes, [holding for holding, _ in others.values()], self._room())
            if found.is_hopeless:
                raise OutOfMemoryError(self._too_large(wanted))
            for holding in found.unload:
                log.info("model unloaded to make room", extra={"model": holding.name, "for": wanted.name})
                await others[id(holding)][1].unload()
            wanted.is_promised = found.fits
            return found.fits

    def beside(self, apart_from: Sequence[Tenant] = ()) -> int:
        """Bytes that a model may be chosen to take so that all others stay; 0 or less: nothing."""
        held, room = self._held(apart_from), self._room()
        free = room.free_bytes - sum(h.growth_bytes for h in held)
        if room.total_bytes is None:
            return free
        return min(free, room.total_bytes - sum(h.committed_bytes for h in held))

    def alone(self, apart_from: Sequence[Tenant] = ()) -> int:
        """Bytes that it may be chosen to take if all others were gone."""
        room = self._room()
        free = room.free_bytes + sum(h.resident_bytes for h in self._held(apart_from))
        return free if room.total_bytes is None else min(free, room.total_bytes)

    def _held(self, apart_from: Sequence[Tenant]) -> list[Holding]:
        return [holding_of(t) for t in self._others(apart_from)]

    def _others(self, apart_from: Sequence[Tenant]) -> list[Tenant]:
        """Who has memory, or was promised some."""
        return [t for t in self._tenants() if (t.is_loaded or t.is_promised) and not any(t is a for a in apart_from)]

    def _room(self) -> Room:
        limits = self._read_limits()
        return Room(limits.memory_bytes, limits.budget_bytes)

    def _too_large(self, wanted: Tenant) -> str:
        allowed = megabytes(self.alone([wanted]))
        return (
            f"{wanted.name} needs {megabytes(wanted.memory_bytes)} of memory, {allowed} may be used; "
            "free some, choose a smaller model, or raise models.memory_limit_bytes"
        )

    def _no_room(self, wanted: Tenant, wait_s: float) -> str:
        held = tell(self._held([wanted]))
        return (
            f"{wanted.name} needs {megabytes(wanted.memory_bytes)} of memory and found no room within {wait_s:.0f} s "
            f"beside {held or 'other programs'}; try again later, or raise models.memory_limit_bytes"
        )


def holding_of(tenant: Tenant) -> Holding:
    measured = sum(resident_bytes(pid) or 0 for pid in tenant.pids) if tenant.is_loaded else 0
    is_starting = not tenant.is_loaded and time.monotonic() - tenant.used_at < SETTLE_S
    is_in_use = tenant.is_in_use or is_starting
    return Holding(tenant.name, tenant.memory_bytes, measured, is_in_use, tenant.used_at)

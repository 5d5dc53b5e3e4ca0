"""The tails of models that a peer runs for devices with a head: each is cut when it is first asked for."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgeagent.core.cards import KV_TYPES
from edgeagent.core.errors import BusyError, OutOfMemoryError, RequestError
from edgeagent.core.stages import Cut
from edgeagent.execution.stage_trial import try_tail
from edgeagent.execution.stages import StageModel
from edgeagent.model.footprint import Setup
from edgeagent.model.locks import Hold
from edgeagent.model.making import Spawn
from edgeagent.model.recipe import output_share
from edgeagent.model.resident import Resident
from edgeagent.model.slicing import legal_cuts, read, slice_variant, stage_of
from edgeagent.model.stage_footprint import predict_stage
from edgeagent.model.store import ModelStore

MAX_TAILS = 4
"""Loaded at once: each has weights of its own."""
SLOTS = 2
"""Sessions of a tail at once, each with cells and buffers of its own."""

_Key = tuple[str, str, int]


@dataclass(slots=True)
class _Held:
    model: StageModel
    hold: Hold
    """Keeps the file from eviction: a worker that is lost loads it again."""
    num_bytes: int
    num_users: int = 0
    used_at: float = 0.0

    async def close(self) -> None:
        await self.model.close()
        self.hold.close()


class Tails:
    """`memory_bytes` is what all of them may take together."""

    def __init__(self, store: ModelStore, spawn: Spawn, memory_bytes: int, repacked: frozenset[str]) -> None:
        """`repacked`: tensor types that the engine keeps in another layout on this machine."""
        self._store = store
        self._spawn = spawn
        self._memory_bytes = memory_bytes
        self._repacked = repacked
        self._held: dict[_Key, _Held] = {}
        self._making: dict[_Key, asyncio.Task[_Held]] = {}
        self._turn = asyncio.Lock()

    async def cuts(self, resident: Resident) -> tuple[int, ...]:
        """How many layers a head of this variant may have; none where it cannot be cut, or no tail has room.

        All of them, as a device may hold a head of any depth. (Those that choose a cut, choose among a few.)
        """
        header = await asyncio.to_thread(read, Path(resident.local.settings.path))
        with contextlib.suppress(RequestError):
            return tuple(k for k in legal_cuts(header, resident.name) if self._has_room(resident, k, header.layers))
        return ()

    def _has_room(self, resident: Resident, k: int, layers: int) -> bool:
        head_share = k / layers * (1 - output_share(resident.card, resident.variant))
        about_bytes = round((resident.variant.bytes or 0) * (1 - head_share))
        return self._forecast(resident, Cut.of(k, layers, layers), about_bytes) <= self._memory_bytes

    def _forecast(self, resident: Resident, cut: Cut, file_bytes: int) -> int:
        """A tail's peak with all its sessions under way."""
        shape, settings = resident.card.architecture, resident.local.settings
        assert shape is not None  # it has layers
        kv_type = next(kind for kind in KV_TYPES if kind == settings.kv_type)
        setup = Setup(settings.context_tokens, kv_type, settings.flash_attention, settings.chunk_tokens)
        one = predict_stage(shape, resident.variant.file_type, cut, file_bytes, self._repacked, setup)
        return one.total_bytes + (SLOTS - 1) * (one.cache_bytes + one.compute_bytes)

    @contextlib.asynccontextmanager
    async def lease(self, resident: Resident, k: int) -> AsyncIterator[StageModel]:
        """The layers from `k` on, loaded as the whole is. Raises RequestError, OutOfMemoryError, BusyError."""
        held = await self._get(resident, k)
        held.num_users += 1
        try:
            yield held.model
        finally:
            held.num_users -= 1
            held.used_at = time.monotonic()

    async def close(self) -> None:
        """End all workers."""
        for making in self._making.values():
            making.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        for held in self._held.values():
            await held.close()
        self._held.clear()

    async def _get(self, resident: Resident, k: int) -> _Held:
        """Made once, also when whoever asked first does not wait: the next one finds it."""
        key = resident.card.id, resident.variant.name, k
        if key in self._held:
            return self._held[key]
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._keep(key, resident, k), name="make-tail")
        return await asyncio.shield(self._making[key])

    async def _keep(self, key: _Key, resident: Resident, k: int) -> _Held:
        try:
            async with self._turn:
                held = self._held[key] = await self._made(resident, k)
            return held
        finally:
            del self._making[key]

    async def _made(self, resident: Resident, k: int) -> _Held:
        header = await asyncio.to_thread(read, Path(resident.local.settings.path))
        card, base = resident.card.id, resident.variant.name
        sliced = await slice_variant(self._store, card, k, header.layers, self._spawn, base=base)
        stored = sliced.stored
        num_bytes = self._forecast(resident, Cut.of(k, header.layers, header.layers), stored.bytes)
        with contextlib.ExitStack() as stack:
            hold = stack.enter_context(contextlib.closing(self._store.hold(stored)))
            await self._make_room(num_bytes)
            cut, source = await asyncio.to_thread(stage_of, stored)
            stack.pop_all()
        settings = replace(
            resident.local.settings, path=str(stored.path), variant_sha256=stored.sha256, sequences=1, draft_path=""
        )
        stage = StageModel(settings, cut, source, slots=SLOTS, limits=resident.local.limits)
        try:
            rows = await try_tail(stage, resident.whole)
        except BaseException:
            await stage.close()
            hold.close()
            raise
        known = settings.invariance.model_copy(update={"draft_batch": rows, "rewind": True})
        stage.settings = replace(settings, invariance=known)
        return _Held(stage, hold, num_bytes)

    async def _make_room(self, num_bytes: int) -> None:
        """Unload what was unused the longest. Raises OutOfMemoryError (never enough), BusyError (not now)."""
        if num_bytes > self._memory_bytes:
            raise OutOfMemoryError(f"a tail takes {num_bytes / 1e6:,.0f} MB, more than models may here; cut it deeper")
        while len(self._held) >= MAX_TAILS or self._taken() + num_bytes > self._memory_bytes:
            idle = [key for key, held in self._held.items() if not held.num_users]
            if not idle:
                raise BusyError("every tail that fits this peer is in use; try again later")
            oldest = min(idle, key=lambda key: self._held[key].used_at)
            await self._held.pop(oldest).close()

    def _taken(self) -> int:
        return sum(held.num_bytes for held in self._held.values())

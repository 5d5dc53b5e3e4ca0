"""The layers of models that a peer runs for devices with a head, each tail cut when it is first asked for.

So are layers between two cuts, whose hidden states another peer goes on from.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgeagent.core.cards import KV_TYPES
from edgeagent.core.errors import BusyError, OutOfMemoryError, RequestError
from edgeagent.core.stages import Cut
from edgeagent.execution.stage_trial import try_behind
from edgeagent.execution.stages import StageModel
from edgeagent.model.footprint import Setup
from edgeagent.model.locks import Hold
from edgeagent.model.making import Spawn
from edgeagent.model.recipe import output_share
from edgeagent.model.resident import Resident
from edgeagent.model.slicing import legal_cuts, padding_of, read, slice_variant, stage_of
from edgeagent.model.stage_footprint import predict_stage
from edgeagent.model.store import ModelStore

MAX_STAGES = 4
"""Loaded at once: each has weights of its own."""
SLOTS = 2
"""Sessions of a stage at once, each with cells and buffers of its own."""
LEAST_MAKING_S, TRIAL_TOKENS = 2.0, 200
"""What making a stage is taken to cost before one was made: its file and its worker, and the trial's tokens."""

_Key = tuple[str, str, int, int]


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
        self._made_s: dict[tuple[str, str], float] = {}

    def loaded(self, card: str, variant: str) -> tuple[tuple[int, int], ...]:
        """Layers `[begin, end)` of that variant that are ready."""
        mine = (held.model for key, held in self._held.items() if key[:2] == (card, variant))
        return tuple((model.cut.begin, model.cut.end) for model in mine if model.is_loaded)

    def making_s(self, card: str, variant: str, decode_tok_s: float) -> float:
        """How long it takes until others are: as the last time, or guessed by the rate of the whole."""
        return self._made_s.get((card, variant), LEAST_MAKING_S + TRIAL_TOKENS / decode_tok_s)

    async def cuts(self, resident: Resident) -> tuple[int, ...]:
        """How many layers a head of this variant may have; none where it cannot be cut, or no tail has room.

        All of them, as a device may hold a head of any depth. (Those that choose a cut, choose among a few.)
        """
        header = await asyncio.to_thread(read, Path(resident.local.settings.path))
        with contextlib.suppress(RequestError):
            layers = header.layers
            return tuple(
                k for k in legal_cuts(header, resident.name) if self._has_room(resident, Cut.of(k, layers, layers))
            )
        return ()

    async def most_between(self, resident: Resident) -> int:
        """How many layers that end inside the model may be run at most; 0 where it cannot be cut, or none has room."""
        header = await asyncio.to_thread(read, Path(resident.local.settings.path))
        try:
            cuts = legal_cuts(header, resident.name)
        except RequestError:
            return 0
        sizes = sorted({end - begin for begin in cuts for end in cuts if begin < end})
        first = cuts[0]
        fitting = (n for n in sizes if self._has_room(resident, Cut.of(first, first + n, header.layers)))
        return max(fitting, default=0)

    def _has_room(self, resident: Resident, cut: Cut) -> bool:
        """With the output head, or as large a token table, in its file."""
        table = output_share(resident.card, resident.variant)
        share = table + (1 - table) * cut.num_blocks / cut.layers
        return self._forecast(resident, cut, round((resident.variant.bytes or 0) * share)) <= self._memory_bytes

    def _forecast(self, resident: Resident, cut: Cut, file_bytes: int) -> int:
        """A stage's peak with all its sessions under way."""
        shape, settings = resident.card.architecture, resident.local.settings
        assert shape is not None  # it has layers
        kv_type = next(kind for kind in KV_TYPES if kind == settings.kv_type)
        setup = Setup(settings.context_tokens, kv_type, settings.flash_attention, settings.chunk_tokens)
        one = predict_stage(shape, resident.variant.file_type, cut, file_bytes, self._repacked, setup)
        return one.total_bytes + (SLOTS - 1) * (one.cache_bytes + one.compute_bytes)

    @contextlib.asynccontextmanager
    async def lease(self, resident: Resident, k: int, end: int | None = None) -> AsyncIterator[StageModel]:
        """The layers from `k` on, up to `end` or all, loaded as the whole is.

        Raises RequestError, OutOfMemoryError, BusyError.
        """
        held = await self._get(resident, k, end)
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

    async def _get(self, resident: Resident, k: int, end: int | None) -> _Held:
        """Made once, also when whoever asked first does not wait: the next one finds it."""
        key = resident.card.id, resident.variant.name, k, end or 0
        if key in self._held:
            return self._held[key]
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._keep(key, resident, k, end), name="make-stage")
        return await asyncio.shield(self._making[key])

    async def _keep(self, key: _Key, resident: Resident, k: int, end: int | None) -> _Held:
        try:
            async with self._turn:
                began_s = time.monotonic()
                held = self._held[key] = await self._made(resident, k, end)
                self._made_s[key[:2]] = time.monotonic() - began_s
            return held
        finally:
            del self._making[key]

    async def _made(self, resident: Resident, k: int, end: int | None) -> _Held:
        header = await asyncio.to_thread(read, Path(resident.local.settings.path))
        card, base = resident.card.id, resident.variant.name
        sliced = await slice_variant(self._store, card, k, end or header.layers, self._spawn, base=base)
        stored = sliced.stored
        num_bytes = self._forecast(resident, sliced.cut, stored.bytes)
        with contextlib.ExitStack() as stack:
            hold = stack.enter_context(contextlib.closing(self._store.hold(stored)))
            await self._make_room(num_bytes)
            cut, source = await asyncio.to_thread(stage_of, stored)
            padding = await asyncio.to_thread(padding_of, stored.path) if cut.ends_inside else None
            stack.pop_all()
        settings = replace(
            resident.local.settings, path=str(stored.path), variant_sha256=stored.sha256, sequences=1, draft_path=""
        )
        stage = StageModel(settings, cut, source, padding, slots=SLOTS, limits=resident.local.limits)
        try:
            rows = min(await try_behind(stage, resident.whole), settings.invariance.draft_batch)
        except BaseException:
            await stage.close()
            hold.close()
            raise
        known = settings.invariance.model_copy(update={"draft_batch": max(rows, 1), "rewind": rows > 0})
        stage.settings = replace(settings, invariance=known)
        return _Held(stage, hold, num_bytes)

    async def _make_room(self, num_bytes: int) -> None:
        """Unload what was unused the longest. Raises OutOfMemoryError (never enough), BusyError (not now)."""
        if num_bytes > self._memory_bytes:
            raise OutOfMemoryError(
                f"these layers take {num_bytes / 1e6:,.0f} MB, more than models may here; ask for fewer"
            )
        while len(self._held) >= MAX_STAGES or self._taken() + num_bytes > self._memory_bytes:
            idle = [key for key, held in self._held.items() if not held.num_users]
            if not idle:
                raise BusyError("all layers that fit this peer are in use; try again later")
            oldest = min(idle, key=lambda key: self._held[key].used_at)
            await self._held.pop(oldest).close()

    def _taken(self) -> int:
        return sum(held.num_bytes for held in self._held.values())

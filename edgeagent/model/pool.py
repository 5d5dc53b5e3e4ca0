"""The models in use: who uses which, how much memory is promised to each, and when they are unloaded."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import BusyError, EdgeAgentError, ModelNotFoundError, OutOfMemoryError
from edgeagent.core.hardware import Profile
from edgeagent.execution.kvstore.store import KvStore
from edgeagent.model.choosing import Chooser, ReadProfile
from edgeagent.model.heads import Heads
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.resident import Resident
from edgeagent.model.rooming import Rooming
from edgeagent.model.store import ModelStore, StoredVariant

BENCH_PROMPT_TOKENS, BENCH_DECODE_TOKENS = 192, 16


class ModelPool:
    """At most one variant of each name that requests use, together within the memory that may be used."""

    def __init__(
        self,
        store: ModelStore,
        config: EngineConfig,
        read_profile: ReadProfile,
        read_limits: Callable[[], Limits],
        describe: Callable[[Profile], Machine],
        kept: KvStore | None = None,
        *,
        draws_here: bool = False,
    ) -> None:
        """`kept` is where evaluated tokens outlive their worker. With `draws_here`, output heads are loaded, too."""
        self._chooser = Chooser(store, config, read_profile, read_limits, describe, kept)
        self._heads = Heads(store, config, read_profile, read_limits, describe, draws_here=draws_here)
        self._config = config
        self._residents: dict[str, Resident] = {}
        self._retired: list[Resident] = []
        self._choosing = asyncio.Lock()
        self._measuring = asyncio.Lock()
        self._rooming = Rooming(lambda: self.residents, read_limits)
        self._is_draining = False
        self.on_use: Callable[[], None] = lambda: None
        """Called when a model was asked for: it will be loaded soon, if it is not."""

    @property
    def residents(self) -> list[Resident]:
        """With those that are on their way out."""
        return [*{id(resident): resident for resident in self._residents.values()}.values(), *self._retired]

    def has(self, model_id: str) -> bool:
        """Whether some variant of the model, or a head of one, is on disk. Raises ModelNotFoundError (unknown id)."""
        return self.has_whole(model_id) or model_id in self._residents or bool(self._heads.stored(model_id))

    def has_whole(self, model_id: str) -> bool:
        """Whether some variant of the model is on disk. Raises as `has`."""
        resident = self._residents.get(model_id)
        return (resident is not None and resident.head is None) or bool(self._chooser.stored(model_id))

    @contextlib.asynccontextmanager
    async def lease(self, model_id: str, *, wait_s: float | None = None) -> AsyncIterator[Resident]:
        """The model's best variant for this machine, chosen once, with memory promised to it; for `ID/VARIANT`, that
        variant. While inside, it is not unloaded for others.

        Waits up to `wait_s` (None: as configured) until others leave room. Raises ModelNotFoundError (unknown, or no
        file here), ModelFileError, OutOfMemoryError, ConfigError, EngineError, and BusyError when there is no room in
        time.
        """
        if self._is_draining:
            raise BusyError("the daemon is stopping; ask again when it is back")
        wait_s = self._config.room_wait_s if wait_s is None else wait_s
        async with contextlib.AsyncExitStack() as stack:
            resident = await self._entered(stack, model_id)
            try:
                await self._make_ready(resident, wait_s)
            except OutOfMemoryError:  # chosen when there was more
                await stack.aclose()
                await self._forget(resident)
                resident = await self._entered(stack, model_id)
                await self._make_ready(resident, wait_s)
            self.on_use()
            yield resident

    async def get(self, model_id: str, *, wait_s: float | None = None) -> Resident:
        """As `lease`, for whoever only looks: others may have the model unloaded at any time."""
        async with self.lease(model_id, wait_s=wait_s) as resident:
            return resident

    async def _entered(self, stack: contextlib.AsyncExitStack, model_id: str) -> Resident:
        """The choice, in use from now until the stack is closed."""
        async with self._choosing:
            resident = self._residents.get(model_id)
            if resident is None:
                resident = self._residents[model_id] = await self._choose(model_id)
            resident.num_users += 1
        stack.push_async_callback(self._leave, resident)
        resident.used_at = time.monotonic()
        return resident

    async def _leave(self, resident: Resident) -> None:
        resident.num_users -= 1
        resident.used_at = time.monotonic()
        if resident.is_retired and not resident.is_in_use:
            await self._drop(resident)

    async def _make_ready(self, resident: Resident, wait_s: float) -> None:
        await self._rooming.admit(resident, wait_s)
        if resident.head is not None:
            async with self._measuring:
                if not resident.head.is_tried:
                    await self.measure(resident)
        elif self._config.threads:
            async with self._measuring:
                if resident.rates.threads != resident.local.settings.threads:
                    await self.measure(resident)
        if resident.head is None and resident.output is not None:
            async with self._measuring:
                if resident.output is not None and resident.output.batch_rows is None:
                    async with resident.local.admission.whole():
                        await self._heads.try_output(resident)

    async def admit(self, resident: Resident) -> None:
        """Promise memory again to a model that lost its worker, before another is started. Raises BusyError."""
        await self._rooming.admit(resident, self._config.room_wait_s)

    async def unload_idle(self) -> None:
        """Run for ever: end the workers of models that nobody used for a while."""
        limit_s = self._config.idle_unload_s
        while limit_s > 0:
            await asyncio.sleep(max(1.0, limit_s / 4))
            await self.release_idle(limit_s)

    async def release_idle(self, unused_s: float) -> None:
        """End the workers of models that nobody has used for so long."""
        for resident in self.residents:
            if resident.is_in_use:
                resident.used_at = time.monotonic()
            elif resident.is_retired:
                await self._drop(resident)
            elif time.monotonic() - resident.used_at > unused_s:
                await resident.unload()

    def smaller(self, resident: Resident) -> int | None:
        """Bytes of the next smaller variant of its model that is on disk; None: it is the smallest."""
        sizes = [stored.bytes for stored in self._chooser.stored(resident.card.id)]
        return max((size for size in sizes if size < (resident.variant.bytes or 0)), default=None)

    async def rechoose(self) -> None:
        """Requests from now on choose under the limits of now. A model in use ends when those who use it have."""
        async with self._choosing:
            for resident in self.residents:
                if resident.is_in_use:
                    self._retire(resident)
                else:
                    await self._drop(resident)

    def _retire(self, resident: Resident) -> None:
        if not resident.is_retired:
            resident.is_retired = True
            self._take_out(resident)
            self._retired.append(resident)

    async def _forget(self, resident: Resident) -> None:
        async with self._choosing:
            if resident in self.residents and not resident.is_in_use:
                await self._drop(resident)

    async def _drop(self, resident: Resident) -> None:
        await resident.end()
        self._take_out(resident)

    def _take_out(self, resident: Resident) -> None:
        self._residents = {name: other for name, other in self._residents.items() if other is not resident}
        self._retired = [other for other in self._retired if other is not resident]

    async def drain(self, bound_s: float) -> None:
        """No new requests; those under way have `bound_s` to end. Then as `close`."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                for resident in self.residents:
                    async with resident.local.admission.whole():
                        pass
                    await resident.local.admission.until_none_away()
        await self.close()

    async def close(self) -> None:
        for resident in self.residents:
            await self._drop(resident)

    async def _choose(self, model_id: str) -> Resident:
        """The whole model, or else a head of it that is here."""
        try:
            return await self._choose_whole(model_id)
        except (ModelNotFoundError, OutOfMemoryError) as error:
            resident = await self._heads.choose(model_id, self._rooming.alone(), _reason(error))
            if resident is None:
                raise
        resident.local.before_load = lambda: self.admit(resident)
        return resident

    async def _choose_whole(self, model_id: str) -> Resident:
        stored = await self._chooser.candidates(model_id)
        twins = [r for r in self.residents if not r.is_retired and any(_is_of(r, s) for s in stored.values())]
        room = self._rooming.beside(twins), self._rooming.alone(twins)
        settled = await self._chooser.settle(stored, room)
        if twin := next((r for r in twins if _is_of(r, settled.stored)), None):
            return twin
        resident = await self._chooser.make(settled)
        await self._heads.add_output(resident, room[1] - resident.memory_bytes)
        resident.local.before_load = lambda: self.admit(resident)
        return resident

    async def measure(self, resident: Resident) -> None:
        """Rates as configured, now: the profile's are at the fastest number of threads. Raises EngineError."""
        if resident.head is not None:
            await self._heads.measure(resident)
            return
        async with resident.local.admission.whole():
            prefill, decode = await resident.whole.bench(BENCH_PROMPT_TOKENS, BENCH_DECODE_TOKENS)
        measured = {"prefill_tok_s": prefill, "decode_tok_s": decode, "threads": resident.local.settings.threads}
        unknown = {"roofline_fraction": None, "compute_fraction": None, "prompt_tokens": BENCH_PROMPT_TOKENS}
        resident.rates = resident.rates.model_copy(update=measured | unknown)


def _reason(error: EdgeAgentError) -> str:
    """What happened, without what to do."""
    return str(error).partition(";")[0]


def _is_of(resident: Resident, stored: StoredVariant) -> bool:
    return resident.head is None and (resident.card.id, resident.variant.name) == (stored.card.id, stored.variant.name)

"""A model file in a worker of its own: the daemon's handle to what a whole model and a stage of one have in common."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from edgeagent.core.errors import EngineError
from edgeagent.execution.admission import ANYONE, Admission, Claim, Urgency
from edgeagent.execution.channel import Message
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.loading import LoadSettings, pace_of
from edgeagent.execution.supervisor import Worker, repeated

LOAD_STALL_S = 300.0  # a large file on an SD card takes minutes


class LoadedModel(ABC):
    """Loads on first use, again after its worker was lost, and unloads when told."""

    def __init__(self, settings: LoadSettings, admission: Admission, limits: WorkerLimits) -> None:
        self.settings = settings
        self.admission = admission
        self.limits = limits
        self._worker: Worker | None = None
        self._loading = asyncio.Lock()
        self._has_loaded = False
        self._pace: tuple[int, float] | None = None
        self.before_load: Callable[[], Awaitable[None]] | None = None
        """Awaited before each worker is started; what it raises, the request gets."""
        self.on_load: Callable[[int], None] = lambda pid: None
        self.template_note: str | None = None
        """What was wrong with the model's own template when the newest prompt was made; None: nothing."""

    @property
    def is_loaded(self) -> bool:
        return self._worker is not None and self._worker.is_alive

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker else None

    @property
    def num_waiting(self) -> int:
        """Requests that hold the engine or wait for it."""
        return self.admission.num_requests

    def lease(self, claim: Claim = ANYONE) -> AbstractAsyncContextManager[Urgency]:
        """One of the engine's sequences for one request, and how urgent it is there.

        Raises BusyError, TooManyRequestsError, DeadlineError.
        """
        return self.admission.turn(claim)

    async def worker(self) -> Worker:
        """The worker with the file loaded, for what it can do (`execution.stage_sessions`).

        Raises ModelFileError, OutOfMemoryError, EngineLostError.
        """
        async with self._loading:
            if self._worker is None or not self._worker.is_alive:
                lost, self._worker = self._worker, None
                self._has_loaded = False
                self._recover(lost)
                await self._start()
            assert self._worker is not None
            return self._worker

    async def encode(self, messages: Sequence[Mapping[str, str]], answer_prefix: str = "") -> tuple[int, ...]:
        """Prompt token ids of chat turns, by the model's own template."""
        reply = await self._asked("encode", messages=[dict(m) for m in messages], answer_prefix=answer_prefix)
        self.template_note = reply["note"]
        return tuple(reply["tokens"])

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens in each text."""
        reply = await self._asked("count", texts=list(texts))
        return [int(n) for n in reply["counts"]]

    @abstractmethod
    async def num_warm(self, prompt: Sequence[int], adapter: str = "") -> int:
        """How many of a prompt's tokens, from the first on, need not be evaluated now."""

    async def set_pace(self, threads: int, duty: float) -> None:
        """Threads and share of the time to compute, from the next token or chunk on; no bits change.

        A worker that is not loaded starts with it. Where the number of threads would change bits, it rests instead.
        """
        self._pace = pace_of(self.settings, threads, duty)
        if self._worker is not None and self._has_loaded and self._worker.is_alive:
            with contextlib.suppress(EngineError):  # one that dies now is told again when it comes back
                await self._tell_pace(self._worker)

    async def close(self) -> None:
        """End the worker."""
        worker, self._worker = self._worker, None  # a request that comes meanwhile starts another, which stays
        if worker is not None:
            await worker.close()

    async def _asked(self, op: str, **params: Any) -> Message:
        """The reply to what leaves no trace in the worker. Raises what `worker` does."""

        async def ask() -> Message:
            reply, _ = await (await self.worker()).call(op, **params)
            return reply

        return await repeated(ask)

    async def _start(self) -> None:
        if self.before_load is not None:
            await self.before_load()
        self._worker = worker = await Worker.spawn("llama", limits=self.limits)
        try:
            await self._load_into(worker)
            await self._tell_pace(worker)
        except BaseException:
            if worker.is_alive:
                await worker.close()
            raise
        self._has_loaded = True
        self.on_load(worker.pid)

    @abstractmethod
    async def _load_into(self, worker: Worker) -> None:
        """Have a fresh worker load the file."""

    def _recover(self, lost: Worker | None) -> None:
        """Before a worker is started, maybe in place of one that is gone."""
        del lost

    async def _tell_pace(self, worker: Worker) -> None:
        if self._pace is not None:
            await worker.call("set_threads", threads=self._pace[0])
            await worker.call("set_duty", duty=self._pace[1])
            worker.watch.duty = self._pace[1]

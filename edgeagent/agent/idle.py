"""What is done when nobody asks anything: old turns are summed up, stored texts are measured. Both make prompts short.

Asleep, without wake-ups, until an answer has ended; then one bounded spell of work with the model that is loaded
anyway. A request that comes ends it, at the cost of the batch under way.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Protocol

from edgeagent.agent.measuring import measure
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.rolling import cuts
from edgeagent.agent.stored import Stored
from edgeagent.agent.summing import sum_up
from edgeagent.core.chat import Message
from edgeagent.core.errors import EdgeAgentError
from edgeagent.execution.admission import Claim, Priority
from edgeagent.model.resident import Resident

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""So long after an answer nobody must have asked."""
MAX_CONVERSATIONS = 8
"""Of the newest, those that may still be summed up."""
MAX_MEASURED = 64
"""Texts in one spell."""


class Pool(Protocol):
    """The models in use: see `model.pool.ModelPool`."""

    @property
    def residents(self) -> list[Resident]: ...


class IdleWork:
    """`note` after each answer, `disturbed` around each request, `run` for ever beside them."""

    def __init__(self, pool: Pool, memory: Memory, *, quiet_s: float = QUIET_S) -> None:
        self._pool = pool
        self._memory = memory
        self._quiet_s = quiet_s
        self._conversations: OrderedDict[tuple[str, bytes], tuple[Message, ...]] = OrderedDict()
        self._wake = asyncio.Event()
        self._spell: asyncio.Task[None] | None = None
        self._num_requests = 0

    def note(self, user: str, messages: Sequence[Message]) -> None:
        """An answer has ended: of that conversation there may be something to sum up, of its memories to measure."""
        if found := cuts(messages):
            self._conversations[user, found[0].key] = tuple(messages)
            while len(self._conversations) > MAX_CONVERSATIONS:
                self._conversations.popitem(last=False)
        self._wake.set()

    @contextlib.contextmanager
    def disturbed(self) -> Iterator[None]:
        """A request is here, or waits for a model: what is being done ends, and goes on after it."""
        if self._spell is not None:
            self._spell.cancel()
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._quiet_s)
            resident = next((r for r in self._pool.residents if r.is_loaded and r.head is None), None)
            if self._num_requests or any(r.is_in_use for r in self._pool.residents):
                continue
            self._wake.clear()
            if resident is not None:
                await self._undisturbed(resident)

    async def _undisturbed(self, resident: Resident) -> None:
        self._spell = asyncio.create_task(self._work(resident), name="idle-spell")
        try:
            await asyncio.wait([self._spell])
            if self._spell.cancelled():
                self._wake.set()
        finally:
            self._spell.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._spell
            self._spell = None

    async def _work(self, resident: Resident) -> None:
        try:
            async with resident.whole.lease(Claim(priority=Priority.LOW)) as urgency:
                while self._conversations:
                    (user, key), messages = next(iter(self._conversations.items()))
                    stored = Stored(self._memory, user)
                    if await stored.summary(key) is None:
                        await sum_up(messages, cuts(messages), resident, stored, urgency)
                    self._conversations.pop((user, key), None)
                num_measured = await measure(self._memory, resident.whole, resident.card.id, MAX_MEASURED)
        except EdgeAgentError as error:
            self._conversations.clear()
            log.warning("nothing was summed up or measured: %s", error)
            return
        if num_measured == MAX_MEASURED:
            self._wake.set()

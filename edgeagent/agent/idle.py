"""What is done when nobody asks anything: old turns are summed up, stored texts are measured. Both make prompts short.

Asleep, without wake-ups, until an answer has ended; then one bounded spell of work with the model that is loaded
anyway. A request that comes ends it, at the cost of the batch under way; heat, other programs, short memory or a
battery put it off.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeagent.agent.measuring import measure
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.reflecting import reflect
from edgeagent.agent.rolling import cuts
from edgeagent.agent.short_text import short_text
from edgeagent.agent.stored import Stored
from edgeagent.agent.summary import MAX_TOKENS
from edgeagent.agent.summing import sum_up
from edgeagent.core.chat import Message
from edgeagent.core.errors import BusyError, EdgeAgentError
from edgeagent.execution.admission import Claim, Priority, Urgency
from edgeagent.model.resident import Resident

log = logging.getLogger(__name__)

QUIET_S = 5.0
"""So long after an answer nobody must have asked."""
PUT_OFF_S = 60.0
"""So long after a spell that was put off the next look is taken."""
MAX_CONVERSATIONS, MAX_HELD_CHARS = 8, 2**20
"""Of the newest, those that may still be summed up, and what they may have together: they wait in memory."""
MAX_MEASURED = 64
"""Texts in one spell."""


class Pool(Protocol):
    """The models in use: see `model.pool.ModelPool`."""

    @property
    def residents(self) -> list[Resident]: ...


Hindrance = Callable[[], Awaitable[str | None]]
"""Why no work may be done now that nobody waits for; None: nothing is in its way."""
Lease = Callable[[], contextlib.AbstractAsyncContextManager[Resident]]
"""The model to work with, loaded if need be."""


async def nothing() -> str | None:
    """Is in its way."""
    return None


@dataclass(frozen=True, slots=True)
class _Talk:
    """`seen`: how often its user had had something forgotten when it began; None: nobody knows."""

    messages: tuple[Message, ...]
    seen: int | None


class IdleWork:
    """`note` after each answer, `disturbed` around each request, `run` for ever beside them.

    `hindrance` is asked before each piece of work. One that takes no notes does only what it is asked for.
    """

    def __init__(
        self,
        pool: Pool,
        memory: Memory,
        hindrance: Hindrance = nothing,
        *,
        quiet_s: float = QUIET_S,
        put_off_s: float = PUT_OFF_S,
        takes_notes: bool = True,
    ) -> None:
        self._pool = pool
        self._memory = memory
        self._hindrance = hindrance
        self._quiet_s = quiet_s
        self._put_off_s = put_off_s
        self._takes_notes = takes_notes
        self._conversations: OrderedDict[tuple[str, bytes], _Talk] = OrderedDict()
        self._wake = asyncio.Event()
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._turn = asyncio.Lock()
        self._spell: asyncio.Task[None] | None = None
        self._num_requests = 0

    def note(self, user: str, messages: Sequence[Message], seen: int | None = None) -> None:
        """An answer has ended: of that conversation there may be something to sum up, of its memories to measure.

        `seen`: see `sightings.Sightings`.
        """
        if not self._takes_notes:
            return
        if found := cuts(messages):
            self._conversations[user, found[0].key] = _Talk(tuple(messages), seen)
            while len(self._conversations) > MAX_CONVERSATIONS or self._num_held_chars > MAX_HELD_CHARS:
                self._conversations.popitem(last=False)
        self._wake.set()

    @property
    def num_noted(self) -> int:
        """Conversations that wait."""
        return len(self._conversations)

    @property
    def _num_held_chars(self) -> int:
        return sum(len(m.content) for talk in self._conversations.values() for m in talk.messages)

    @contextlib.contextmanager
    def disturbed(self) -> Iterator[None]:
        """A request is here, or waits for a model: what is being done ends, and goes on after it."""
        if self._spell is not None:
            self._spell.cancel()
        self._num_requests += 1
        self._is_quiet.clear()
        try:
            yield
        finally:
            self._num_requests -= 1
            if not self._num_requests:
                self._is_quiet.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._quiet_s)
            resident = next((r for r in self._pool.residents if r.is_loaded and r.head is None), None)
            if resident is not None and not self._is_busy and (why := await self._hindrance()):
                log.debug("idle work is put off: %s", why)
                await asyncio.sleep(self._put_off_s)
                continue
            async with self._turn:
                if self._is_busy:
                    continue
                self._wake.clear()
                if resident is not None and not await self._undisturbed(self._work(resident)):
                    self._wake.set()

    @property
    def _is_busy(self) -> bool:
        return self._num_requests > 0 or any(r.is_in_use for r in self._pool.residents)

    async def reflect(self, user: str, most: int, lease: Lease) -> list[str]:
        """The ids of new summaries of sessions (`memory.reflecting`), made while no request is here.

        Raises BusyError when something else is in the way, and what leasing and using the model raise.
        """
        ids: list[str] = []
        async with self._turn:
            while True:
                while self._num_requests:  # the next one may come before this goes on
                    await self._is_quiet.wait()
                try:
                    if await self._undisturbed(self._reflect(user, most, ids, lease)):
                        return ids
                except BusyError:
                    if ids:
                        return ids
                    raise

    async def _reflect(self, user: str, most: int, ids: list[str], lease: Lease) -> None:
        """Appends to `ids`, as a request may end this after each."""
        await self._check()
        async with lease() as resident, resident.whole.lease(Claim(priority=Priority.LOW)) as urgency:

            async def write(messages: Sequence[Message]) -> str:
                await self._check()
                return await short_text(resident, messages, urgency, "summary", max_tokens=MAX_TOKENS)

            async with contextlib.aclosing(reflect(self._memory, user, write, most=most - len(ids))) as made:
                async for id_ in made:
                    ids.append(id_)  # noqa: PERF401  (one by one, as this may end after each)

    async def _check(self) -> None:
        if why := await self._hindrance():
            raise BusyError(f"nothing is summed up now: {why}; try again later")

    async def _undisturbed(self, work: Coroutine[None, None, None]) -> bool:
        """Do it, and whether it came to its end; a request that comes ends it."""
        self._spell = spell = asyncio.create_task(work, name="idle-spell")
        try:
            await asyncio.wait([spell])
        finally:
            self._spell = None
            spell.cancel()
            await asyncio.wait([spell])
        if spell.cancelled():
            return False
        spell.result()
        return True

    async def _work(self, resident: Resident) -> None:
        try:
            async with resident.whole.lease(Claim(priority=Priority.LOW)) as urgency:
                while self._conversations and await self._may_go_on():
                    place, talk = next(iter(self._conversations.items()))
                    await self._sum_up(*place, talk, resident, urgency)
                    if self._conversations.get(place) is talk:
                        del self._conversations[place]
                num_measured = await measure(
                    self._memory, resident.whole, resident.card.id, MAX_MEASURED, self._may_go_on
                )
        except EdgeAgentError as error:
            self._conversations.clear()
            log.warning("nothing was summed up or measured: %s", error)
            return
        if num_measured == MAX_MEASURED or not await self._may_go_on():
            self._wake.set()

    async def _sum_up(self, user: str, key: bytes, talk: _Talk, resident: Resident, urgency: Urgency) -> None:
        """Not what has a summary, nor what was said before something was forgotten."""
        stored, found = Stored(self._memory, user, talk.seen), cuts(talk.messages)
        if await stored.summary(key) is None and await stored.since(found) is not None:
            await sum_up(talk.messages, found, resident, stored, urgency)

    async def _may_go_on(self) -> bool:
        return await self._hindrance() is None

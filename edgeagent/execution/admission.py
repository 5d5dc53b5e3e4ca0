"""Turns at an engine: a bounded fair queue in front of its slots. `fairness` decides, this waits and wakes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from edgeagent.core.errors import DeadlineError
from edgeagent.execution.fairness import ANYONE, USUAL, Claim, FairQueue, Priority, Urgency, Waiter

__all__ = ["ANYONE", "USUAL", "Admission", "Claim", "Priority", "Urgency"]


class Admission:
    """Gives at most `slots` turns at once; `queue` requests may be here beside them, `per_user` of one user.

    `now` gives monotonic seconds. Turns are given as soon as there is a slot, unless someone wants the engine alone.
    """

    def __init__(
        self, *, slots: int, queue: int, per_user: int | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._queue = FairQueue(slots=slots, queue=queue, per_user=per_user)
        self._now = now
        self._turns: dict[Waiter, asyncio.Future[None]] = {}
        self._wholes: list[asyncio.Future[None]] = []
        self._is_whole = False

    @property
    def num_waiting(self) -> int:
        """Turns that are waited for."""
        return len(self._queue.waiting) + len(self._wholes)

    @property
    def num_running(self) -> int:
        return len(self._queue.running) + self._is_whole

    @property
    def num_requests(self) -> int:
        """Requests that wait, run, or are between two turns: the engine is in use while there is one."""
        return self._queue.num_places + len(self._wholes) + self._is_whole

    def set_slots(self, slots: int) -> None:
        """From now on; turns under way go on."""
        self._queue.slots = slots
        self._advance()

    @contextlib.contextmanager
    def place(self, claim: Claim = ANYONE) -> Iterator[Claim]:
        """A place for a request of several turns, each to be taken with the claim that this gives: none is refused
        for want of room. Raises TooManyRequestsError (this user has enough), BusyError (all have).
        """
        self._queue.enter(claim.user)
        try:
            yield replace(claim, since_s=self._now())
        finally:
            self._queue.exit(claim.user)

    @contextlib.asynccontextmanager
    async def turn(self, claim: Claim = ANYONE) -> AsyncIterator[Urgency]:
        """One of the slots, and how urgent it is there.

        Raises DeadlineError instead of beginning too late, and what `place` raises.
        """
        with contextlib.ExitStack() as stack:
            placed = claim if claim.since_s is not None else stack.enter_context(self.place(claim))
            waiter = await self._begin(placed)
            try:
                yield waiter.urgency
            finally:
                self._queue.finish(waiter, self._now())
                self._advance()

    @contextlib.asynccontextmanager
    async def whole(self) -> AsyncIterator[None]:
        """The engine alone: no turn begins from now on, and this one begins when those under way have ended.

        Never refused. Whoever holds a turn and asks for this waits for itself.
        """
        future = asyncio.get_running_loop().create_future()
        self._wholes.append(future)
        self._advance()
        try:
            await future
        except BaseException:
            if future.cancelled():
                self._advance()  # drops it
            else:
                self._end_whole()
            raise
        try:
            yield
        finally:
            self._end_whole()

    def _end_whole(self) -> None:
        self._is_whole = False
        self._advance()

    async def _begin(self, claim: Claim) -> Waiter:
        loop = asyncio.get_running_loop()
        waiter = self._queue.join(claim, self._now())
        future = self._turns[waiter] = loop.create_future()
        latest = waiter.latest_start_s
        timer = None if latest is None else loop.call_later(max(latest - self._now(), 0.0), self._give_up, waiter)
        self._advance()
        try:
            await future
        except BaseException:
            # A task can be cancelled in the moment it is woken with a turn: then the turn goes to the next.
            if waiter in self._queue.running:
                self._queue.finish(waiter, self._now())
            elif waiter in self._queue.waiting:
                self._queue.leave(waiter)
            self._advance()
            raise
        finally:
            del self._turns[waiter]
            if timer is not None:
                timer.cancel()
        return waiter

    def _give_up(self, waiter: Waiter) -> None:
        """The deadline of a waiter has come, unless it has begun or left."""
        future = self._turns.get(waiter)
        if future is None or future.done():
            return
        waited = self._now() - waiter.since_s
        self._queue.leave(waiter)
        text = f"the deadline came after {waited:.3g} s of waiting for the model; allow more time, or ask less at once"
        future.set_exception(DeadlineError(text))

    def _advance(self) -> None:
        """Give what can be given now."""
        self._drop_cancelled()
        now_s = self._now()
        for waiter in self._queue.late(now_s):
            self._give_up(waiter)
        if self._is_whole:
            return
        if self._wholes:
            if not self._queue.running:
                self._is_whole = True
                self._wholes.pop(0).set_result(None)
            return
        while begun := self._queue.start_next(now_s):
            self._turns[begun].set_result(None)

    def _drop_cancelled(self) -> None:
        """A future is cancelled before the task that waits for it runs again and takes itself out."""
        for waiter in [waiter for waiter in self._queue.waiting if self._turns[waiter].cancelled()]:
            self._queue.leave(waiter)
        self._wholes = [future for future in self._wholes if not future.cancelled()]

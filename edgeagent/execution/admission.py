"""Turns at an engine: a bounded fair queue in front of its slots. `fairness` decides, this waits and wakes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from edgeagent.core.errors import DeadlineError
from edgeagent.execution.fairness import ANYONE, USUAL, Claim, FairQueue, Priority, Urgency, Waiter

__all__ = ["ANYONE", "USUAL", "Admission", "Claim", "Priority", "Turns", "Urgency"]


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
        self._none_away = asyncio.Event()
        self._none_away.set()

    @property
    def num_waiting(self) -> int:
        """Turns that are waited for."""
        return len(self._queue.waiting) + len(self._wholes)

    @property
    def num_running(self) -> int:
        return len(self._queue.running) + self._is_whole

    @property
    def num_requests(self) -> int:
        """Requests that wait, run, are away or between two turns: the engine is in use while there is one."""
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
        with self.turns(claim) as turns:
            yield await turns.take()

    @contextlib.contextmanager
    def turns(self, claim: Claim = ANYONE) -> Iterator["Turns"]:
        """For a request that may leave in its turn and come back; what it holds ends with this. Raises as `place`."""
        with contextlib.ExitStack() as stack:
            turns = Turns(self, claim if claim.since_s is not None else stack.enter_context(self.place(claim)))
            try:
                yield turns
            finally:
                turns.close()

    async def until_none_away(self) -> None:
        """Until those that left in their turn are back, or over."""
        await self._none_away.wait()

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

    async def begin(self, claim: Claim) -> Waiter:
        """A turn, in a place that is held. Raises DeadlineError instead of beginning too late."""
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

    def end(self, waiter: Waiter) -> None:
        self._queue.finish(waiter, self._now())
        self._advance()

    def leave(self, waiter: Waiter) -> bool:
        """End a turn whose request others work for from now on. False: as many are away as may wait, and it stays."""
        if not self._queue.send_away(waiter.claim.user):
            return False
        self._none_away.clear()
        self.end(waiter)
        return True

    def come_back(self, user: str) -> None:
        """A request of this user that left is away no longer."""
        self._queue.call_back(user)
        if not self._queue.num_away:
            self._none_away.set()

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


class Turns:
    """Of one request at an engine: one is taken, left while others work for it, and another taken if need be.

    The request keeps its place meanwhile, so that it is not refused. It is in mid-sentence then: no deadline holds it
    up any more, and it goes before others.
    """

    def __init__(self, admission: Admission, claim: Claim) -> None:
        """`claim` has a place."""
        self._admission = admission
        self._claim = claim
        self._waiter: Waiter | None = None
        self._is_away = False

    @property
    def urgency(self) -> Urgency:
        """While it is held."""
        assert self._waiter is not None
        return self._waiter.urgency

    async def take(self) -> Urgency:
        """At once while it is held. Raises DeadlineError instead of beginning too late."""
        if self._waiter is None:
            self._come_back()
            self._waiter = await self._admission.begin(self._claim)
        return self._waiter.urgency

    def leave(self) -> None:
        """Others work for this request now: its slot is free, unless as many are away as may wait."""
        if self._waiter is not None and self._admission.leave(self._waiter):
            self._waiter, self._is_away = None, True
            self._claim = replace(self._claim, priority=Priority.HIGH, deadline_s=None)

    def close(self) -> None:
        self._come_back()
        if self._waiter is not None:
            self._admission.end(self._waiter)
            self._waiter = None

    def _come_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._admission.come_back(self._claim.user)

"""How a request comes to its model: past what holds the engine back, to memory, to a place in the model's queue."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from edgeagent.core.chat import ChatRequest
from edgeagent.execution.admission import Admission, Claim, Priority
from edgeagent.model.pool import ModelPool
from edgeagent.model.resident import Resident

PRIORITIES = {"interactive": Priority.HIGH, "normal": Priority.NORMAL, "background": Priority.LOW}


class Governor(Protocol):
    """What holds the engine back, and for how long a request must wait for it."""

    async def admit(self, wait_s: float | None = None) -> None: ...

    def reasons_since(self, at_s: float) -> tuple[str, ...]: ...


def claim_of(request: ChatRequest, user: str, started_at: float) -> Claim:
    """What a request that came at `started_at` (monotonic seconds) may ask of the engine."""
    wish = request.edgeagent
    deadline = None if wish.deadline_s is None else started_at + wish.deadline_s
    return Claim(user, PRIORITIES[wish.priority], deadline)


def left_s(claim: Claim) -> float | None:
    """Seconds until the deadline; None: there is none."""
    return None if claim.deadline_s is None else max(0.0, claim.deadline_s - time.monotonic())


class Door:
    """As many may wait before it, for the governor, a choice or memory, as may wait in a model's queue."""

    def __init__(
        self,
        pool: ModelPool,
        governor: Governor | None,
        *,
        default_model: str,
        queue: int,
        per_user: int,
        elsewhere: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`elsewhere`: models that have no card here, and that peers offer."""
        self._pool = pool
        self._governor = governor
        self._default_model = default_model
        self._elsewhere = elsewhere
        self._outside = Admission(slots=1, queue=queue, per_user=per_user)

    @contextlib.asynccontextmanager
    async def entered(self, request: ChatRequest, claim: Claim) -> AsyncIterator[tuple[Resident, Claim]]:
        """The request's model, in use while inside, and a place in its queue.

        Raises TooManyRequestsError, BusyError, and what `ModelPool.lease` raises.
        """
        async with contextlib.AsyncExitStack() as stack:
            with self._outside.place(claim):
                if self._governor:
                    await self._governor.admit(left_s(claim))
                resident = await stack.enter_async_context(self.lease(request.model, left_s(claim)))
                placed = stack.enter_context(resident.local.admission.place(claim))
            yield resident, placed

    def lease(self, model: str | None, wait_s: float | None = None) -> AbstractAsyncContextManager[Resident]:
        """The local model of a request: the one it names if it is here, else the default."""
        name = model or self._default_model
        is_here = name not in self._elsewhere() and self._pool.has(name)
        return self._pool.lease(name if is_here else self._default_model, wait_s=wait_s)

    def reasons_since(self, at_s: float) -> tuple[str, ...]:
        """What held the engine back at some time since."""
        return self._governor.reasons_since(at_s) if self._governor else ()

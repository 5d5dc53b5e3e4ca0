"""Additions that wait for the disk together: what comes while one transaction is written goes into the next, as one."""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import EdgeAgentError

MAX_GROUP = 256
OnThread = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs work on the store's thread, in the order in which it was given."""


@dataclass(slots=True, eq=False)
class _Addition:
    user: str
    memories: Sequence[NewMemory]
    outcome: list[str] | EdgeAgentError | None = None


class GroupedAdditions:
    """Each is acknowledged once its group is on disk. Of a group, one that fails takes no other along."""

    def __init__(self, store: MemoryStore, on_thread: OnThread) -> None:
        self._store = store
        self._on_thread = on_thread
        self._waiting: deque[_Addition] = deque()

    async def add(self, user: str, memories: Sequence[NewMemory]) -> list[str]:
        """As `MemoryStore.add`. Cancelled before its turn, it is not stored."""
        addition = _Addition(user, memories)
        self._waiting.append(addition)
        try:
            await self._on_thread(lambda: self._write_until(addition))
        finally:
            with contextlib.suppress(ValueError):  # the thread has taken it
                self._waiting.remove(addition)
        if isinstance(addition.outcome, EdgeAgentError):
            raise addition.outcome
        assert addition.outcome is not None
        return addition.outcome

    def _write_until(self, addition: _Addition) -> None:
        """Usually an earlier turn on this thread has written it already."""
        while addition.outcome is None:
            if not (group := self._taken()):  # cancelled
                return
            self._write(group)

    def _taken(self) -> list[_Addition]:
        """The next group. Additions that are cancelled meanwhile leave the queue on the loop's thread."""
        group: list[_Addition] = []
        with contextlib.suppress(IndexError):
            while len(group) < MAX_GROUP:
                group.append(self._waiting.popleft())
        return group

    def _write(self, group: Sequence[_Addition]) -> None:
        try:
            outcomes = self._store.add_all([(each.user, each.memories) for each in group])
        except EdgeAgentError as error:
            outcomes = [error] * len(group)
        for each, outcome in zip(group, outcomes, strict=True):
            each.outcome = outcome

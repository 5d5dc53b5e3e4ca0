"""The memory as one request sees it: it notes what it wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.telling import told
from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.events import Event, Finished
from edgeagent.core.memory import MemoryHit

TOLD = "conversation"
"""The source of what was remembered without being asked for."""


@dataclass(slots=True)
class Notebook:
    memory: Memory
    written: list[str] = field(default_factory=list)
    failure: str | None = None
    """Why nothing could be remembered without being asked for."""

    async def search(self, user: str, query: str, k: int) -> Sequence[MemoryHit]:
        return await self.memory.search(user, query, k)

    async def add(self, user: str, text: str, kind: str, source: str) -> str:
        id_ = await self.memory.add(user, text, "note", source)
        self.written.append(id_)
        return id_

    async def write_back(self, user: str, message: str) -> None:
        """Remember what the user told of himself, unless the turn has already saved something.

        Nobody asked for it: where it cannot be done (a full quota, a full disk), the report says so and no more.
        """
        if self.written or not (texts := told(message)):
            return
        try:
            await self._write_new(user, texts)
        except EdgeAgentError as error:
            self.failure = f"what you told was not remembered: {error}"

    async def _write_new(self, user: str, texts: Sequence[str]) -> None:
        held = await self.memory.holds(user, texts)
        for text, is_held in zip(texts, held, strict=True):
            if not is_held:
                self.written.append(await self.memory.add(user, text, "turn", TOLD))

    def reported(self, event: Event) -> Event:
        """The event, with what was written, or could not be, if it is the last one."""
        if not isinstance(event, Finished) or not (self.written or self.failure):
            return event
        memory = event.report.memory.model_copy(update={"written": tuple(self.written)})
        notes = (*event.report.notes, *filter(None, (self.failure,)))
        return replace(event, report=event.report.model_copy(update={"memory": memory, "notes": notes}))

"""What a surface may ask of the house: the seam between HTTP (or MQTT) and the assistant behind it."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from edgeagent.core.cards import ModelCard
from edgeagent.core.chat import ChatRequest
from edgeagent.core.events import Event
from edgeagent.core.hardware import Profile
from edgeagent.core.memory import MemoryHit, MemoryItem
from edgeagent.core.plan import Decision, PlanQuery


@dataclass(frozen=True, slots=True)
class Load:
    """Turns at all engines: an answer is one, and so is each decision of an agent on the way to it."""

    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """A peer as this machine knows it: what it says of itself, and how it was found. None: not known."""

    id: str
    state: str
    is_broken: bool
    """It failed a moment ago, and is left alone."""
    models: tuple[str, ...]
    queue: int
    capacity: int | None
    wait_s: float | None
    rtt_s: float | None
    down_bytes_s: float | None
    up_bytes_s: float | None


class Backend(Protocol):
    def answer(self, request: ChatRequest, user: str) -> AsyncGenerator[Event, None]:
        """The events of one answer, `Finished` last. Closing the generator cancels the answer.

        Raises EdgeAgentError, before the first event or between two.
        """
        ...

    def models(self) -> list[ModelCard]:
        """The cards offered for chat and completion, the default first."""
        ...

    def elsewhere(self) -> Mapping[str, str]:
        """Models without a card here that some peer offers, and one such peer's name."""
        ...

    def offered(self, wanted: str | None) -> ModelCard | None:
        """The model that a request for `wanted` gets (None: the default, else another); None: it is not offered."""
        ...

    async def profile(self) -> Profile:
        """What this machine is and how fast it was measured to be."""
        ...

    async def plan(self, query: PlanQuery) -> Decision:
        """How a request of that size would run now, and what it would cost. Raises NoPlanError."""
        ...

    async def memories(self, user: str, query: str | None, limit: int, kind: str | None = None) -> list[MemoryHit]:
        """At most `limit` memories of `user`: the best matches of `query`, or without one the newest (score 0), of
        one `kind` where one is given.
        """
        ...

    async def recollect(self, user: str, id_: str) -> MemoryItem:
        """One memory. Raises NotFoundError."""
        ...

    async def remember(self, user: str, text: str, source: str) -> str:
        """The id of a new memory."""
        ...

    async def correct(self, user: str, id_: str, text: str) -> tuple[str, ...]:
        """Put another text in a memory's place; the ids of the summaries that went along. Raises NotFoundError."""
        ...

    async def forget(self, user: str, id_: str) -> tuple[str, ...]:
        """Remove a memory for good; the ids of the summaries that went along. Raises NotFoundError."""
        ...

    async def reflect(self, user: str, most: int) -> list[str]:
        """Sum up at most so many sessions of turns, while no request is here; the ids of the summaries.

        Raises BusyError while something holds the engine back.
        """
        ...

    def is_ready(self) -> tuple[bool, str]:
        """Whether a question would be answered now, and why or why not."""
        ...

    def load(self) -> Load:
        """How much the engines have to do now."""
        ...

    def peer_facts(self) -> list[PeerFacts]:
        """Those that are online now."""
        ...

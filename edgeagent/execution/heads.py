"""The first layers of a model on this machine: in the whole model, or in a file that has nothing else."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.core.stages import HiddenType
from edgeagent.execution.local import LocalModel
from edgeagent.execution.stage_sessions import StageSession, open_head
from edgeagent.execution.stages import StageModel, describe_head


class Head(Protocol):
    """The layers `[0, k)` of a model."""

    @property
    def max_rows(self) -> int:
        """The largest batch of one sequence's tokens that changes no bit."""
        ...

    async def descriptor(self) -> StageDescriptor: ...

    def session(self, context_tokens: int) -> AbstractAsyncContextManager[StageSession]: ...


@dataclass(frozen=True, slots=True)
class HeadOfWhole:
    """In a model that is whole here."""

    model: LocalModel
    model_id: str
    k: int
    hidden: HiddenType = "f32"
    most_rows: int | None = None
    """What whoever draws takes at once; None: anything."""

    @property
    def max_rows(self) -> int:
        own = self.model.settings.draft_rows
        return own if self.most_rows is None else min(own, self.most_rows)

    async def descriptor(self) -> StageDescriptor:
        return await describe_head(self.model, self.model_id, self.k, self.hidden)

    def session(self, context_tokens: int) -> AbstractAsyncContextManager[StageSession]:
        return open_head(self.model, self.k, context_tokens, self.hidden)


@dataclass(frozen=True, slots=True)
class HeadOfFile:
    """In a file of their own."""

    stage: StageModel
    model_id: str
    max_rows: int = 1
    hidden: HiddenType = "f32"

    async def descriptor(self) -> StageDescriptor:
        return await self.stage.descriptor(self.model_id, self.hidden)

    def session(self, context_tokens: int) -> AbstractAsyncContextManager[StageSession]:
        return self.stage.session(context_tokens, self.hidden)

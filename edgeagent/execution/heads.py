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
    def batch_rows(self) -> int:
        """So many tokens of one sequence share a batch, which changes no bit; 0: none may be guessed."""
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

    @property
    def batch_rows(self) -> int:
        return self.model.settings.draft_rows

    async def descriptor(self) -> StageDescriptor:
        return await describe_head(self.model, self.model_id, self.k, self.hidden)

    def session(self, context_tokens: int) -> AbstractAsyncContextManager[StageSession]:
        return open_head(self.model, self.k, context_tokens, self.hidden)


@dataclass(frozen=True, slots=True)
class HeadOfFile:
    """In a file of their own."""

    stage: StageModel
    model_id: str
    batch_rows: int = 0
    hidden: HiddenType = "f32"

    async def descriptor(self) -> StageDescriptor:
        return await self.stage.descriptor(self.model_id, self.hidden)

    def session(self, context_tokens: int) -> AbstractAsyncContextManager[StageSession]:
        return self.stage.session(context_tokens, self.hidden)


@dataclass(frozen=True, slots=True)
class Output:
    """The output head of a split model, on this machine: it draws tokens from final hidden states."""

    stage: StageModel
    batch_rows: int = 0
    """Tokens whose draws share a batch; 0: none may be guessed."""

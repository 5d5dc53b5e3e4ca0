"""Sequences in a stage of a split model, or in a whole model that does a head's part: the daemon's handle to them.

Hidden states and cells pass through as bytes: only workers look into them. A session is one request's sequence. It
starts anywhere again: each run names the position it begins at, and what was there is dropped.
"""

import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from edgeagent.core.errors import EngineError
from edgeagent.core.generation import Sampling, TokenStep
from edgeagent.core.stages import HiddenType
from edgeagent.execution import canonical
from edgeagent.execution.channel import Buffers, Message
from edgeagent.execution.local import LocalModel, token_step
from edgeagent.execution.supervisor import Worker

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class HiddenRows:
    """Hidden states of `num_tokens` tokens from position `first` on, as they travel."""

    first: int
    num_tokens: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CellRows:
    """Cache rows of cells `[first, end)` of a stage's layers: K of each, then V."""

    first: int
    end: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ran:
    """A run is over: `tokens` are in the cells. After a draw: how many were `drawn`, and why the answer is over."""

    tokens: int
    drawn: int = 0
    reason: str | None = None


StageEvent = HiddenRows | CellRows | TokenStep | Ran


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """`after`: it gives hidden states once so many layers of its file are done; None: it gives logits.

    With `sampling` it draws tokens: penalties look at `prompt`, and `output` was drawn before, by whomever.
    """

    context_tokens: int
    takes_hidden: bool = False
    after: int | None = None
    hidden: HiddenType = "f32"
    sampling: Sampling | None = None
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()

    def parameters(self) -> Message:
        """Of op `stage_open`."""
        return {
            "context_tokens": self.context_tokens,
            "takes_hidden": self.takes_hidden,
            "after": self.after,
            "hidden": self.hidden,
            "sampling": self.sampling.model_dump() if self.sampling else None,
            "prompt": self.prompt,
            "output": self.output,
        }


@dataclass(frozen=True, slots=True)
class Draw:
    """Draw tokens behind a run's last span; `guesses` are the tokens whose rows came behind the run's first.

    With guesses, tokens are drawn behind each span, and the run ends at the first that was guessed wrong. The answer
    has `max_tokens` at most, with those drawn before.
    """

    max_tokens: int
    guesses: tuple[int, ...] = ()


class StageSession:
    """One sequence in a stage; made by `open_session`. Raises EngineLostError when its worker dies."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    def run_tokens(
        self, tokens: Sequence[int], position: int, spans: Sequence[int], *, cells: bool = False
    ) -> AsyncGenerator[StageEvent, None]:
        """Evaluate tokens in `spans` (`canonical.spans`) from `position` on; hidden states of all after each span.

        Leaving the iteration keeps what was evaluated. Raises RequestError, EngineError.
        """
        return self._run((), tokens=list(tokens), position=position, spans=spans, cells=cells)

    async def hidden_states(self, tokens: Sequence[int], position: int, batch_rows: int | None = None) -> bytes:
        """Of a head: evaluate tokens from `position` on, in one span or in spans of at most `batch_rows`; their hidden
        states. Raises as `run_tokens`."""
        return await _hidden_in(self.run_tokens(tokens, position, batches(len(tokens), batch_rows)))

    async def hidden_states_behind(
        self, rows: bytes, position: int, num_tokens: int, batch_rows: int | None = None
    ) -> bytes:
        """Of a middle: the same of hidden states that come in, of so many tokens. Raises as `run_hidden`."""
        return await _hidden_in(self.run_hidden(rows, position, batches(num_tokens, batch_rows), all_rows=True))

    def run_hidden(
        self,
        rows: bytes,
        position: int,
        spans: Sequence[int],
        *,
        cells: bool = False,
        all_rows: bool = False,
        draw: Draw | None = None,
    ) -> AsyncGenerator[StageEvent, None]:
        """The same for hidden states in the session's type, which may draw behind its last span.

        Of what it gives itself, each span's last row, as the whole model computes it; `all_rows` of drafts, and where
        other layers come behind.
        """
        drawing: Message = {}
        if draw is not None:
            drawing = {"draw": True, "guesses": draw.guesses, "max_tokens": draw.max_tokens}
        return self._run([rows], position=position, spans=spans, cells=cells, all_rows=all_rows, **drawing)

    async def _run(self, bulk: Buffers, **params: Any) -> AsyncGenerator[StageEvent, None]:
        stream = self._worker.stream("stage_run", bulk, session=self._number, **params)
        async with contextlib.aclosing(stream) as messages:
            async for event, data in messages:
                yield _event(event, data)

    async def cells(self, first: int, end: int) -> CellRows:
        """Cells that were evaluated before. Raises EngineError for a cache that has no exchangeable layout."""
        _, data = await self._worker.call("stage_cells", session=self._number, first=first, end=end)
        return CellRows(first, end, data)

    async def splice(self, prompt: Sequence[int], first_block: int, blocks: Sequence[bytes]) -> None:
        """Of a head in a whole model: complete the model's own cache of `prompt` with the tail's `blocks`.

        Blocks before `first_block` are in that cache already. Raises EngineError when blocks do not fit.
        """
        await self._worker.call(
            "stage_splice", blocks, session=self._number, prompt=list(prompt), first_block=first_block
        )

    async def close(self) -> None:
        with contextlib.suppress(EngineError):  # with its worker it is closed already
            await self._worker.call("stage_close", session=self._number)


def _event(event: Message, data: bytes) -> StageEvent:
    if "rows" in event:
        first, count = event["rows"]
        return HiddenRows(first, count, data)
    if "cells" in event:
        first, end = event["cells"]
        return CellRows(first, end, data)
    if "token" in event:
        return token_step(event, data)
    return Ran(event["tokens"], event.get("drawn", 0), event.get("reason"))


@asynccontextmanager
async def open_session(worker: Worker, spec: SessionSpec) -> AsyncIterator[StageSession]:
    """A session in a worker that has a model or a stage loaded. Raises RequestError, OutOfMemoryError."""
    number = next(_numbers)
    session = StageSession(worker, number)
    try:  # whoever is cancelled meanwhile does not know whether it was opened
        await worker.call("stage_open", session=number, **spec.parameters())
        yield session
    finally:
        await session.close()


@asynccontextmanager
async def open_head(model: LocalModel, k: int, context_tokens: int, hidden: HiddenType) -> AsyncIterator[StageSession]:
    """Layers `[0, k)` of a whole model, beside its answers: the head of `split-prefill`."""
    async with open_session(await model.worker(), SessionSpec(context_tokens, after=k, hidden=hidden)) as session:
        yield session


def batches(num_tokens: int, batch_rows: int | None) -> list[int]:
    """Spans of at most so many tokens each."""
    return canonical.spans(num_tokens, 0, batch_rows or num_tokens)


async def _hidden_in(events: AsyncGenerator[StageEvent, None]) -> bytes:
    """The hidden states that a run gives, of all its spans."""
    async with contextlib.aclosing(events):
        return b"".join([event.data async for event in events if isinstance(event, HiddenRows)])

"""Who draws the tokens of a split model's answer: the peer, or this machine from the final hidden states."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol

from edgeagent.core.errors import PeerError, RequestError
from edgeagent.core.generation import TokenStep
from edgeagent.execution.executors import PeerModel, Traffic, step_of
from edgeagent.execution.peers import failure
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.execution.stage_sessions import Draw, StageSession, batches
from edgeagent.wire.messages import STEP_ROWS, Done, Failed, Open, Token

OUTPUT_TOKENS = STEP_ROWS
"""Context of an output head: each step begins at its first cell, as no token looks at another there."""

Tokens = AsyncGenerator[TokenStep, None]


class Draws(Protocol):
    @property
    def ends_early(self) -> bool:
        """Whether nothing is evaluated behind a guess that was wrong."""
        ...

    def expect(self, block: int, guesses: tuple[int, ...]) -> None:
        """A step was sent: the newest token and these behind it, as hidden states in this block."""
        ...

    def tokens(self, sending: asyncio.Task[None]) -> Tokens:
        """Every token in order, until the peer ends the answer. Raises PeerError, and what `sending` ended with."""
        ...


class DrawnThere:
    """The peer draws, and sends tokens."""

    ends_early = True

    def __init__(self, session: Session, target: PeerModel, traffic: Traffic) -> None:
        self._session, self._target, self._traffic = session, target, traffic

    def expect(self, block: int, guesses: tuple[int, ...]) -> None:
        del block, guesses  # the peer ends a step's tokens where a guess was wrong

    async def tokens(self, sending: asyncio.Task[None]) -> Tokens:
        position = 0
        while True:
            match await received(self._session, sending):
                case Token() as token:
                    step = step_of(token, self._target, position)
                    position += 1
                    self._traffic.peer_tokens += not token.is_end
                    yield step
                case Done():
                    return
                case _:
                    continue


class DrawnHere:
    """The peer sends final hidden states; `output`, an output head here, draws from them, of at most `batch_rows`
    tokens at once. No token crosses."""

    ends_early = False

    def __init__(self, session: Session, output: StageSession, job: Open, batch_rows: int) -> None:
        self._session, self._output, self._job, self._batch_rows = session, output, job, batch_rows
        self._block, self._guesses = len(job.block_sizes()) - 1, tuple[int, ...]()
        session.expect({self._block: job.step_bytes(1)})

    def expect(self, block: int, guesses: tuple[int, ...]) -> None:
        self._block, self._guesses = block, guesses
        self._session.receiver.expect({block: self._job.step_bytes(1 + len(guesses))})

    async def tokens(self, sending: asyncio.Task[None]) -> Tokens:
        while True:
            match await received(self._session, sending):
                case BlockArrived(index) if index == self._block:
                    async with contextlib.aclosing(self._drawn(self._session.receiver.pop(index))) as steps:
                        async for step in steps:
                            yield step
                case Done():
                    return
                case _:
                    continue

    async def _drawn(self, rows: bytes) -> Tokens:
        """What the newest step's final hidden states give. Raises PeerError for some that no model has."""
        draw, spans = Draw(self._job.max_tokens, self._guesses), batches(1 + len(self._guesses), self._batch_rows)
        try:
            async with contextlib.aclosing(self._output.run_hidden(rows, 0, spans, draw=draw)) as events:
                async for event in events:
                    if isinstance(event, TokenStep):
                        yield event
        except RequestError as error:
            raise PeerError(f"nothing can be drawn from what the peer sent: {error}") from error


async def received(session: Session, sending: asyncio.Task[None]) -> object:
    """The next of the peer's that is no failure. Raises PeerError, and what `sending` ended with."""
    while True:
        match await session.receive():
            case Failed() as failed:
                raise failure(failed)
            case arrived:
                if sending.done():  # it never comes to an end when the head has failed
                    sending.result()
                return arrived

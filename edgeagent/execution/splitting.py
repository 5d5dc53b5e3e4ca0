"""Split plans: layers `[0, k)` of a model here, the others at a peer. Hidden states go up; no text does.

Chunk by chunk, the head's hidden states leave while the next chunk is evaluated here and the one before there. Plan
`split-prefill` gets the cells of the other layers back, and this machine answers alone from its own cache, whole then.
Plan `split-decode` goes on like that for every token: its hidden state up, the token that the peer draws down.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from edgeagent.core.errors import EngineError, EngineLostError, OutOfMemoryError, PeerError, RequestError, WireError
from edgeagent.core.generation import Generation
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.core.stages import HiddenType
from edgeagent.execution import canonical
from edgeagent.execution.admission import USUAL, Urgency
from edgeagent.execution.executors import LocalExecutor, PeerModel, Steps, Traffic, peer_session, step_of
from edgeagent.execution.local import LocalModel
from edgeagent.execution.peers import Peers, until_accepted
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.execution.split_drafts import SplitDrafts
from edgeagent.execution.stage_sessions import HiddenRows, StageSession, open_head
from edgeagent.execution.stages import describe_head
from edgeagent.wire.messages import Done, Failed, Open, Step, Token

log = logging.getLogger(__name__)

HEAD_FAILURES = (EngineError, OutOfMemoryError, RequestError)
"""What a head may end with where the whole model can still answer: no room for its cells, a state that is no number."""


class Head(Protocol):
    """The layers `[0, k)` of a model on this machine, by themselves or in the whole."""

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

    @property
    def max_rows(self) -> int:
        settings = self.model.settings
        return settings.invariance.draft_batch if settings.speculation and settings.invariance.rewind else 1

    async def descriptor(self) -> StageDescriptor:
        return await describe_head(self.model, self.model_id, self.k, self.hidden)

    def session(self, context_tokens: int) -> AbstractAsyncContextManager[StageSession]:
        return open_head(self.model, self.k, context_tokens, self.hidden)


class SplitPrefillExecutor:
    """Plan `split-prefill`. Raises EngineLostError only; what a peer does wrong ends up in `traffic.notes`."""

    def __init__(
        self, head: HeadOfWhole, peers: Peers, target: PeerModel, traffic: Traffic, urgency: Urgency = USUAL
    ) -> None:
        self._head, self._peers, self._target = head, peers, target
        self._traffic, self._urgency = traffic, urgency

    @property
    def name(self) -> str:
        return f"split-prefill with peer {self._target.peer}"

    async def extend(self, generation: Generation) -> Steps:
        try:
            await self._prefill(generation)
        except EngineLostError:
            raise
        except HEAD_FAILURES as error:  # the local engine evaluates all of it, as if alone
            self._traffic.notes.append(str(error))
        local = LocalExecutor(self._head.model, self._traffic, self._urgency)
        async with contextlib.aclosing(local.extend(generation)) as steps:
            async for step in steps:
                yield step

    async def _prefill(self, generation: Generation) -> None:
        async with self._head.session(len(generation.prompt)) as head:
            exchange = _Exchange(head, await self._head.descriptor(), self._target, self._traffic, generation)
            try:
                await exchange.run(self._peers)
            except PeerError as error:
                log.warning("peer %s left a prefill: %s", self._target.peer, error)
                self._traffic.notes.append(str(error))
            await self._complete(head, generation, exchange.whole_blocks())

    async def _complete(self, head: StageSession, generation: Generation, blocks: Sequence[bytes]) -> None:
        """Give the whole model the cells that are complete: of all chunks, or of the first when a peer was lost."""
        if not blocks:
            return
        chunk = self._head.model.settings.chunk_tokens
        done = generation.prompt[: len(blocks) * chunk]
        await head.splice(done, 0, blocks)
        self._traffic.kv_tokens = len(done)


class _Exchange:
    """A prompt's hidden states up, chunk by chunk, and the cells of the other layers down."""

    def __init__(
        self, head: StageSession, stage: StageDescriptor, target: PeerModel, traffic: Traffic, generation: Generation
    ) -> None:
        self._head, self._stage, self._target, self._traffic = head, stage, target, traffic
        self._generation = generation
        self._arrived: dict[int, bytes] = {}

    def whole_blocks(self) -> list[bytes]:
        """The cells that came, from the first chunk on without a gap."""
        return [self._arrived[i] for i in itertools.takewhile(self._arrived.__contains__, itertools.count())]

    async def run(self, peers: Peers) -> None:
        """Until every block is here. Raises PeerError, EngineLostError."""
        async with peer_session(peers, self._target.peer, self._traffic) as session:
            job = open_split(session, "split-prefill", self._target, self._stage, self._generation)
            session.expect(sizes := job.cell_block_sizes())
            self._stage.check_same(await _their_stage(session, self._target.wait_s))
            async with _background(send_prompt(self._head, session, self._generation, self._stage, job.job)) as sending:
                while len(self._arrived) < len(sizes):
                    match await session.receive():
                        case BlockArrived(index):
                            self._arrived[index] = session.receiver.pop(index)
                        case Failed(message=message):
                            raise PeerError(f"peer {self._target.peer} failed: {message}")
                        case _:
                            if sending.done():
                                sending.result()


class SplitDecodeExecutor:
    """Plan `split-decode`: the peer draws the tokens.

    Raises PeerError, and EngineLostError also for a head that fails: another executor may go on.
    """

    def __init__(self, head: Head, peers: Peers, target: PeerModel, traffic: Traffic) -> None:
        self._head, self._peers, self._target, self._traffic = head, peers, target, traffic

    @property
    def name(self) -> str:
        return f"split-decode with peer {self._target.peer}"

    async def extend(self, generation: Generation) -> Steps:
        try:
            async with contextlib.aclosing(self._steps(generation)) as steps:
                async for step in steps:
                    yield step
        except EngineLostError:
            raise
        except HEAD_FAILURES as error:
            raise EngineLostError(f"the first layers here failed: {error}") from error

    async def _steps(self, generation: Generation) -> Steps:
        stage, num_prompt = await self._head.descriptor(), len(generation.prompt)
        async with (
            self._head.session(num_prompt + generation.max_tokens) as head,
            peer_session(self._peers, self._target.peer, self._traffic) as session,
        ):
            job = open_split(session, "split-decode", self._target, stage, generation)
            stage.check_same(await _their_stage(session, self._target.wait_s))
            answer = _Answer(head, session, job, SplitDrafts(generation, self._head.max_rows), self._traffic)
            async with (
                _background(send_prompt(head, session, generation, stage, job.job)) as sending,
                contextlib.aclosing(self._tokens(session, sending)) as tokens,
            ):
                while drawn := await answer.next(tokens):
                    for token in drawn:
                        yield step_of(token)
                    if drawn[-1].is_end or drawn[-1].position + 1 == generation.max_tokens:
                        return
                    await sending
                    await answer.step(drawn[-1])

    async def _tokens(self, session: Session, sending: asyncio.Task[None]) -> AsyncGenerator[Token, None]:
        position = 0
        while True:
            match await session.receive():
                case Token() as token:
                    if token.position != position:
                        raise WireError(f"token {token.position} came where token {position} was due")
                    position += 1
                    self._traffic.peer_tokens += not token.is_end
                    yield token
                case Done():
                    return
                case Failed(message=message):
                    raise PeerError(f"peer {self._target.peer} failed: {message}")
                case _:
                    if sending.done():  # it never comes to an end when the head has failed
                        sending.result()


class _Answer:
    """Steps of one answer: the newest token and guesses go up, what was right of them and one token more comes down."""

    def __init__(self, head: StageSession, session: Session, job: Open, drafts: SplitDrafts, traffic: Traffic) -> None:
        self._head, self._session, self._job = head, session, job
        self._num_chunks = len(job.block_sizes())
        self._drafts, self._traffic = drafts, traffic
        self._guesses: tuple[int, ...] = ()
        self._begun_at = time.monotonic()

    async def next(self, tokens: AsyncIterator[Token]) -> list[Token]:
        """What came of the last step (at first: of the prompt); empty when the peer has ended the answer."""
        drawn: list[Token] = []
        async for token in tokens:
            drawn.append(token)
            number = len(drawn) - 1
            is_right = number < len(self._guesses) and token.token == self._guesses[number]
            if not is_right or token.is_end or token.position + 1 == self._job.max_tokens:
                break
        took_s = time.monotonic() - self._begun_at
        if drawn and drawn[0].position == 0:
            # Both ends work on chunks at once, and each chunk is worked on by both.
            chunk_tokens = self._job.prompt_tokens // self._num_chunks
            self._drafts.begin(drawn[0].token, chunk_tokens, 2 * took_s / self._num_chunks)
        elif drawn:
            self._drafts.note([token.token for token in drawn], took_s)
            self._traffic.accepted_tokens += min(len(drawn) - 1, len(self._guesses))
        return drawn

    async def step(self, newest: Token) -> None:
        """Send the newest token, and what may follow it."""
        self._begun_at = time.monotonic()
        self._guesses = self._drafts.propose(self._job.max_tokens - newest.position - 2)
        self._traffic.drafted_tokens += len(self._guesses)
        position, block = self._job.prompt_tokens + newest.position, self._num_chunks + newest.position
        rows, inputs = b"", [newest.token, *self._guesses]
        async with contextlib.aclosing(self._head.run_tokens(inputs, position, [len(inputs)])) as events:
            async for event in events:
                rows = event.data if isinstance(event, HiddenRows) else rows
        self._session.send(Step(block=block, position=position, guesses=self._guesses))
        self._session.send_blocks([(block, rows)], bulk=False)


def open_split(session: Session, job: str, target: PeerModel, stage: StageDescriptor, generation: Generation) -> Open:
    """Send the Open of a split job. The sampling goes along where the peer draws."""
    opened = Open.model_validate(
        {
            "job": job,
            "model": target.model,
            "variant_sha256": target.variant_sha256,
            "stage": stage,
            "prompt_tokens": len(generation.prompt),
            "max_tokens": generation.max_tokens if job == "split-decode" else 0,
        }
        | ({"sampling": generation.sampling} if job == "split-decode" else {})
    )
    session.send(opened)
    return opened


async def send_prompt(
    head: StageSession, session: Session, generation: Generation, stage: StageDescriptor, job: str
) -> None:
    """Evaluate the head's part of a prompt, and send each chunk's hidden states as soon as they are there."""
    spans = canonical.spans(len(generation.prompt), 0, stage.chunk_tokens)
    async with contextlib.aclosing(head.run_tokens(generation.prompt, 0, spans)) as events:
        index = 0
        async for event in events:
            if isinstance(event, HiddenRows):
                # The steps of an answer come in order with their messages, and one session's blocks go one way.
                session.send_blocks([(index, event.data)], bulk=job == "split-prefill")
                index += 1


async def _their_stage(session: Session, wait_s: float) -> StageDescriptor:
    accepted = await until_accepted(session, wait_s)
    if accepted.stage is None:
        raise PeerError("the peer does not say what its stage is; update it")
    return accepted.stage


@contextlib.asynccontextmanager
async def _background(work: Coroutine[object, object, None]) -> AsyncIterator[asyncio.Task[None]]:
    """`work` beside what is inside; it ends with it. Its failure is raised at the end unless another came first."""
    task = asyncio.create_task(work, name="split-prompt")
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()

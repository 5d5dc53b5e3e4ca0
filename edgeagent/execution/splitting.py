"""Split plans: layers `[0, k)` of a model here, the others at a peer. Hidden states go up; no text does.

Chunk by chunk, the head's hidden states leave while the next chunk is evaluated here and the one before there. Plan
`split-prefill` gets the cells of the other layers back, and this machine answers alone from its own cache, whole then.
(Plan `split-decode` goes on like that for every token: `split_decode`.)
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence

from edgeagent.core.errors import EngineError, EngineLostError, OutOfMemoryError, PeerError, RequestError
from edgeagent.core.generation import Generation
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.execution import canonical
from edgeagent.execution.admission import USUAL, Urgency
from edgeagent.execution.executors import LocalExecutor, PeerModel, Steps, Traffic, peer_session
from edgeagent.execution.heads import HeadOfWhole
from edgeagent.execution.peers import Peers, until_accepted
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.execution.stage_sessions import StageSession
from edgeagent.wire.messages import Accepted, Failed, Open

log = logging.getLogger(__name__)

HEAD_FAILURES = (EngineError, OutOfMemoryError, RequestError)
"""What a head may end with where the whole model can still answer: no room for its cells, a state that is no number."""


STALL_S = 30.0
"""How long a peer that is there may take to acknowledge anything of what was sent."""


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
            await until_same(session, self._stage, self._target.wait_s)
            async with background(send_prompt(self._head, session, self._generation, self._stage, job.job)) as sending:
                while len(self._arrived) < len(sizes):
                    match await session.receive():
                        case BlockArrived(index):
                            self._arrived[index] = session.receiver.pop(index)
                        case Failed(message=message):
                            raise PeerError(f"peer {self._target.peer} failed: {message}")
                        case _:
                            if sending.done():
                                sending.result()


def open_split(
    session: Session,
    job: str,
    target: PeerModel,
    stage: StageDescriptor,
    generation: Generation,
    *,
    final_hidden: bool = False,
) -> Open:
    """Send the Open of a split job. The sampling goes along where the peer draws: not with `final_hidden`."""
    is_answer = job == "split-decode"
    opened = Open.model_validate(
        {
            "job": job,
            "model": target.model,
            "variant_sha256": target.variant_sha256,
            "stage": stage,
            "prompt_tokens": len(generation.prompt),
            "max_tokens": generation.max_tokens if is_answer else 0,
            "final_hidden": final_hidden,
            "onward": target.onward,
        }
        | ({"sampling": generation.sampling} if is_answer and not final_hidden else {})
    )
    session.send(opened)
    return opened


async def send_prompt(
    head: StageSession, session: Session, generation: Generation, stage: StageDescriptor, job: str
) -> None:
    """Evaluate the head's part of a prompt, and send each chunk's hidden states as soon as they are there.

    A chunk is evaluated while the one before travels. On a slow link the head then waits: no more than two chunks'
    hidden states do. Raises PeerLostError when the peer acknowledges nothing, and as `StageSession.run_tokens`.
    """
    position = 0
    for index, num_tokens in enumerate(canonical.spans(len(generation.prompt), 0, stage.chunk_tokens)):
        rows = await head.hidden_states(generation.prompt[position : position + num_tokens], position)
        # The steps of an answer come in order with their messages, and one session's blocks go one way.
        session.send_blocks([(index, rows)], bulk=job == "split-prefill")
        position += num_tokens
        await session.until_room(len(rows), STALL_S)


async def until_same(session: Session, stage: StageDescriptor, wait_s: float) -> Accepted:
    """Wait for the verdict, and compare the peer's stage once more. Raises PeerError."""
    accepted = await until_accepted(session, wait_s)
    if accepted.stage is None:
        raise PeerError("the peer does not say what its stage is; update it")
    stage.check_same(accepted.stage)
    return accepted


@contextlib.asynccontextmanager
async def background(
    work: Coroutine[object, object, None], name: str = "split-prompt"
) -> AsyncIterator[asyncio.Task[None]]:
    """`work` beside what is inside; it ends with it. Its failure is raised at the end unless another came first."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    if not task.cancelled():
        task.result()

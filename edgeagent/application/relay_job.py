"""A split model's job that is passed on: layers between the device's and another peer's run here.

To the next peer this one acts as a device does: it asks, sends hidden states and steps, and takes tokens (or final
hidden states), which it hands down as they come.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator

from edgeagent.application.split_job import Upward, step_rows
from edgeagent.core.errors import PassedOnError, PeerError, PeerRefusedError
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.execution.admission import Claim
from edgeagent.execution.executors import PATIENCE_S
from edgeagent.execution.peers import Peers
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.execution.splitting import background, until_same
from edgeagent.execution.stage_sessions import StageSession
from edgeagent.execution.stages import StageModel
from edgeagent.wire.messages import Accepted, Done, Failed, Open, Stop, Token, chunks


class RelayJob:
    """`run` ends when the job has. `peers` are whom it may be passed on to."""

    def __init__(self, session: Session, job: Open, upward: Upward, peers: Peers) -> None:
        assert job.stage is not None
        assert job.onward is not None
        self._session, self._job = session, job
        self._upward, self._peers = upward, peers
        self._theirs: StageDescriptor = job.stage
        self._next = job.onward

    async def rouse(self) -> None:
        """Have the next peer make its layers ready if they are not. What goes wrong is told by `run`."""
        if self._next_making_s:
            with contextlib.suppress(PeerError):
                async with self._passed_on() as onward:
                    await self._asked(onward)

    async def run(self, stage: StageModel, claim: Claim) -> None:
        """Raises PassedOnError when the next peer refuses, fails or is lost; else as `SplitJob.run`."""
        async with stage.admission.turn(claim):
            ours = await stage.descriptor(self._job.model, self._theirs.hidden)
            ours.check_same(self._theirs)
            room = self._job.prompt_tokens + self._job.max_tokens
            opening = stage.session(room, self._theirs.hidden)
            async with opening as sequence, self._passed_on() as onward:
                accepted = await self._asked(onward)
                self._session.expect_split(self._job)
                self._session.send(
                    Accepted(
                        kv_bytes_per_token=sum(ours.kv_planes),
                        stage=ours,
                        max_rows=min(step_rows(stage), accepted.max_rows or 1),
                    )
                )
                passing = self._pass_up(sequence, onward, stage.settings.draft_rows)
                async with background(passing, "relay-up") as sending:
                    while not sending.done():
                        if await self._pass_down(onward):
                            return

    @property
    def _next_making_s(self) -> float:
        return self._peers.making_s(self._next.peer, self._job.model, self._next.k, self._theirs.layers)

    @contextlib.asynccontextmanager
    async def _passed_on(self) -> AsyncIterator[Session]:
        """A session with the next peer, which is told when nothing more is wanted."""
        async with contextlib.AsyncExitStack() as stack:
            with self._blaming():
                onward = await stack.enter_async_context(self._peers.session(self._next.peer))
            try:
                yield onward
            finally:
                with contextlib.suppress(PeerError):
                    onward.send(Stop())

    async def _asked(self, onward: Session) -> Accepted:
        stage, wait_s = self._theirs.behind(self._next.k), PATIENCE_S + self._next_making_s
        job = self._job.model_copy(update={"stage": stage, "onward": None})
        onward.send(job)
        if job.final_hidden:
            onward.expect({len(job.block_sizes()) - 1: job.step_bytes(1)})
        with self._blaming():
            return await until_same(onward, stage, wait_s)

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """What goes wrong inside is the next peer's fault, and the device is to know that."""
        peer = self._next.peer
        try:
            yield
        except PeerRefusedError as error:
            raise PassedOnError(f"peer {peer}: {error}", peer, is_refusal=True) from error
        except PeerError as error:
            self._peers.trip(peer)
            raise PassedOnError(f"peer {peer}: {error}", peer) from error

    async def _pass_up(self, sequence: StageSession, onward: Session, batch_rows: int) -> None:
        """The prompt chunk by chunk, then steps, until it is cancelled."""
        position = 0
        for index, tokens in enumerate(chunks(self._job.prompt_tokens, self._theirs.chunk_tokens)):
            rows = await self._upward.block(index)
            onward.send_blocks([(index, await sequence.hidden_states_behind(rows, position, tokens))], bulk=False)
            position += tokens
        while True:
            step = await self._upward.step()
            rows, tokens = await self._upward.block(step.block), 1 + len(step.guesses)
            rows = await sequence.hidden_states_behind(rows, step.position, tokens, batch_rows)
            if self._job.final_hidden:
                onward.receiver.expect({step.block: self._job.step_bytes(tokens)})
            onward.send(step)
            onward.send_blocks([(step.block, rows)], bulk=False)

    async def _pass_down(self, onward: Session) -> bool:
        """The next of what comes; whether it was the last."""
        with self._blaming():
            arrived = await onward.receive()
            if isinstance(arrived, Failed):
                raise PeerError(arrived.message)
        match arrived:
            case BlockArrived(index):
                self._session.send_blocks([(index, onward.receiver.pop(index))], bulk=False)
            case Token() | Done():
                self._session.send(arrived)
            case _:
                pass
        return isinstance(arrived, Done)

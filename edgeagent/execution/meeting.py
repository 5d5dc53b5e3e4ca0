"""Plan `prefill`: both ends prefill one prompt, the peer's cache comes back from its end, and the two meet.

The first tokens come from the peer, which has the logits first and draws with the same keyed generator. Where the
caches meet, this machine assembles one and goes on alone, token-exactly. The local prefill never waits for the peer,
so a slow or dead one costs nothing.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from edgeagent.core.errors import EngineError, EngineLostError, PeerError, WireError
from edgeagent.core.generation import Generation, TokenStep
from edgeagent.execution import canonical
from edgeagent.execution.admission import USUAL, Urgency
from edgeagent.execution.executors import (
    PATIENCE_S,
    LocalExecutor,
    PeerModel,
    Steps,
    Traffic,
    open_job,
    peer_session,
    step_of,
)
from edgeagent.execution.local import LocalModel
from edgeagent.execution.peers import Peers, until_accepted
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.wire.messages import Done, Failed, Progress, Token

log = logging.getLogger(__name__)


class PrefillExecutor:
    """See the module. Raises EngineLostError only; what a peer does wrong ends up in `traffic.notes`."""

    def __init__(
        self, model: LocalModel, peers: Peers, target: PeerModel, traffic: Traffic, urgency: Urgency = USUAL
    ) -> None:
        self._model = model
        self._peers = peers
        self._target = target
        self._traffic = traffic
        self._urgency = urgency

    @property
    def name(self) -> str:
        return f"prefill with peer {self._target.peer}"

    async def extend(self, generation: Generation) -> Steps:
        journal = generation
        meeting = _Meeting(self._model, self._peers, self._target, self._traffic, generation, self._urgency)
        async with contextlib.aclosing(meeting.run()) as steps:
            async for step in steps:
                yield step
                if step.is_end:
                    return
                journal = journal.extended(step.token)
                if journal.num_left == 0:
                    return
        async with contextlib.aclosing(LocalExecutor(self._model, Traffic(), self._urgency).extend(journal)) as rest:
            async for step in rest:
                yield step


class _Meeting:
    """One prompt prefilled from both ends; over when the local cache holds all of it."""

    def __init__(
        self,
        model: LocalModel,
        peers: Peers,
        target: PeerModel,
        traffic: Traffic,
        generation: Generation,
        urgency: Urgency,
    ) -> None:
        self._model = model
        self._peers = peers
        self._target = target
        self._traffic = traffic
        self._generation = generation
        self._urgency = urgency
        self._chunk = model.settings.chunk_tokens
        self._num_blocks = canonical.num_blocks(len(generation.prompt), self._chunk)
        self._num_here = 0
        self._first_there = self._num_blocks
        self._met = asyncio.Event()
        self._session: Session | None = None
        self._steps: asyncio.Queue[TokenStep | None] = asyncio.Queue()

    async def run(self) -> Steps:
        """The peer's first tokens, until the local engine can go on."""
        work = asyncio.create_task(self._work(), name="prefill-meeting")
        try:
            while (step := await self._steps.get()) is not None:
                yield step
            await work
        finally:
            await _cancel(work)

    async def _work(self) -> None:
        here = asyncio.create_task(self._prefill_here(), name="prefill-here")
        there = asyncio.create_task(self._prefill_there(), name="prefill-there")
        met = asyncio.create_task(self._met.wait(), name="prefill-met")
        try:
            await asyncio.wait({here, met}, return_when=asyncio.FIRST_COMPLETED)
            if here.done():
                here.result()
            else:
                await _cancel(here)
                await self._splice()
        finally:
            for task in (here, there, met):
                await _cancel(task)
            self._steps.put_nowait(None)

    async def _prefill_here(self) -> None:
        """All but what is evaluated again for its logits: doing that twice would make this slower than `local`."""
        prompt = self._generation.prompt[: self._num_before_logits()]
        if not prompt:
            return
        async with contextlib.aclosing(self._model.prefill(prompt, self._urgency)) as progress:
            async for evaluated in progress:
                if evaluated.reused is not None:
                    self._traffic.reused_tokens = evaluated.reused
                self._num_here = evaluated.tokens // self._chunk
                self._check_met()
                if self._session:
                    with contextlib.suppress(PeerError):
                        self._session.send(Progress(blocks=self._num_here))

    async def _prefill_there(self) -> None:
        """Talk to the peer until cancelled. Its failure is noted; the local prefill goes on regardless."""
        target = self._target
        try:
            peer = await self._peers.place(target.wanted("prefill", self._generation), target.peer)
            self._target = replace(target, peer=peer)
            self._traffic.peer = peer
            async with peer_session(self._peers, peer, self._traffic) as session:
                await self._exchange(session)
        except PeerError as error:
            log.warning("peer %s left a prefill: %s", self._target.peer, error)
            self._traffic.notes.append(str(error))

    async def _exchange(self, session: Session) -> None:
        cell_bytes = (await self._model.facts()).kv_bytes_per_token
        session.expect({i: self._block_tokens(i) * cell_bytes for i in range(self._num_blocks)})
        open_job(session, "prefill", self._target, self._generation)
        accepted = await until_accepted(session, PATIENCE_S)  # this machine computes meanwhile
        if accepted.kv_bytes_per_token != cell_bytes:
            raise WireError(f"peer {self._target.peer} has another cache layout; update the older of the two")
        self._session = session
        first_block_at: float | None = None
        due = len(self._generation.output)
        while True:
            match await session.receive():
                case Token() as token:
                    self._steps.put_nowait(step_of(token, self._target, due))
                    self._traffic.peer_tokens += 1
                    due += 1
                case BlockArrived():
                    self._first_there = session.receiver.lowest_of_suffix(self._num_blocks)
                    self._traffic.kv_tokens = len(self._generation.prompt) - self._first_there * self._chunk
                    first_block_at = self._note_speed(session, first_block_at)
                    self._check_met()
                case Failed(message=message):
                    raise PeerError(f"peer {self._target.peer} failed: {message}")
                case Done(reason="sent"):
                    return
                case _:
                    continue

    def _note_speed(self, session: Session, first_block_at: float | None) -> float:
        """Goodput, from the second block on: the first one also waited for the peer's prefill."""
        now = time.monotonic()
        num_blocks = len(session.receiver.blocks)
        if first_block_at is None or num_blocks < 3:
            return first_block_at or now
        later_bytes = session.receiver.num_bytes * (num_blocks - 1) / num_blocks
        self._peers.note_link(self._target.peer, down_bytes_s=later_bytes / max(now - first_block_at, 1e-4))
        return first_block_at

    def _check_met(self) -> None:
        if self._first_there < self._num_blocks and self._num_here >= self._first_there:
            self._met.set()

    async def _splice(self) -> None:
        assert self._session is not None
        first, blocks = self._first_there, self._session.receiver.blocks
        try:
            await self._model.splice(
                self._generation.prompt, first, [blocks[i] for i in range(first, self._num_blocks)]
            )
        except EngineLostError:
            raise
        except EngineError as error:  # the local engine then evaluates what it lacks, as if alone
            self._traffic.notes.append(str(error))

    def _num_before_logits(self) -> int:
        """Prompt tokens before the last span, or before the last token where a prompt may be cut anywhere."""
        num_prompt = len(self._generation.prompt)
        if self._model.settings.invariance.free_prefill:
            return num_prompt - 1
        return canonical.block_range(self._num_blocks - 1, num_prompt, self._chunk)[0]

    def _block_tokens(self, index: int) -> int:
        first, end = canonical.block_range(index, len(self._generation.prompt), self._chunk)
        return end - first


async def _cancel(task: asyncio.Task[object] | asyncio.Task[None]) -> None:
    """End a task and wait for it; its errors have been seen or do not matter any more."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

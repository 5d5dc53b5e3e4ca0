"""A split model's job at a peer: hidden states of the first layers come, cells or tokens of the others go back."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from edgeagent.core.errors import RequestError, WireError
from edgeagent.core.generation import TokenStep
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.execution.admission import Claim
from edgeagent.execution.executors import token_of
from edgeagent.execution.session import Session
from edgeagent.execution.stage_sessions import CellRows, Draw, HiddenRows, Ran, StageEvent, StageSession, batches
from edgeagent.execution.stages import StageModel
from edgeagent.wire.messages import STEP_ROWS, Accepted, Done, Open, Step, chunks

BLOCK_S = 30.0
"""How long a device that is there may take for its next hidden states (a slow one computes layers of a long chunk), for
its next step, and to acknowledge something: others wait for the model meanwhile."""
MAX_STEPS = 4
"""Steps that wait to be evaluated: a device sends one, and the next when it has the answer."""


class Upward:
    """What a device sends: tell `arrived` of blocks, and `take` steps."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.arrived = asyncio.Event()
        self._steps: asyncio.Queue[Step] = asyncio.Queue()

    def take(self, step: Step) -> None:
        """Raises WireError when more wait than a device has to send."""
        if self._steps.qsize() >= MAX_STEPS:
            raise WireError(f"more than {MAX_STEPS} steps wait to be evaluated")
        self._steps.put_nowait(step)

    async def step(self) -> Step:
        """The next one. Raises WireError when none comes."""
        try:
            async with asyncio.timeout(BLOCK_S):
                return await self._steps.get()
        except TimeoutError:
            raise WireError(f"no step came within {BLOCK_S:g} s") from None

    async def block(self, index: int) -> bytes:
        """Hidden states. Raises WireError when they do not come."""
        try:
            async with asyncio.timeout(BLOCK_S):
                while index not in self._session.receiver.blocks:
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            raise WireError(f"hidden states {index} did not come within {BLOCK_S:g} s") from None
        return self._session.receiver.pop(index)


class SplitJob:
    """All layers behind the device's run here. `run` ends when the job has."""

    def __init__(self, session: Session, job: Open, stage: StageModel, upward: Upward) -> None:
        assert job.stage is not None
        self._session, self._job, self._stage, self._upward = session, job, stage, upward
        self._theirs: StageDescriptor = job.stage

    async def run(self, claim: Claim) -> None:
        """Raises RequestError for a head that does not fit, WireError when hidden states do not come."""
        job, is_answer = self._job, self._job.job == "split-decode"
        if is_answer and job.sampling.has_penalties:
            raise RequestError("penalties look at the prompt, which this peer does not see; leave them out")
        async with self._stage.admission.turn(claim):
            ours = await self._stage.descriptor(job.model, self._theirs.hidden)
            ours.check_same(self._theirs)
            sampling = job.sampling if is_answer and not job.final_hidden else None
            room = job.prompt_tokens + job.max_tokens
            opening = self._stage.session(room, self._theirs.hidden, gives_hidden=job.final_hidden, sampling=sampling)
            async with opening as sequence:
                self._session.expect_split(job)
                self._session.send(
                    Accepted(
                        kv_bytes_per_token=sum(ours.kv_planes),
                        stage=ours,
                        max_rows=step_rows(self._stage) if is_answer else None,
                    )
                )
                await self._work(sequence)

    async def _work(self, sequence: StageSession) -> None:
        is_answer = self._job.job == "split-decode"
        sizes = chunks(self._job.prompt_tokens, self._theirs.chunk_tokens)
        position, is_over = 0, False
        for index, tokens in enumerate(sizes):
            is_last = index == len(sizes) - 1
            rows = await self._upward.block(index)
            draw = Draw(self._job.max_tokens) if is_answer and is_last and self._draws else None
            run = sequence.run_hidden(rows, position, [tokens], cells=not is_answer, draw=draw)
            is_over = await self._follow(index, run, gives_hidden=is_last)
            position += tokens
        if is_answer and not is_over:
            await self._answer(sequence)
        elif not is_answer:
            await self._session.until_sent(BLOCK_S)
            self._session.send(Done(reason="sent"))

    async def _answer(self, sequence: StageSession) -> None:
        """Steps until the answer is over, or the device stops them."""
        is_over = False
        while not is_over:
            step = await self._upward.step()
            rows, num_tokens = await self._upward.block(step.block), 1 + len(step.guesses)
            draw = Draw(self._job.max_tokens, step.guesses) if self._draws else None
            spans = batches(num_tokens, self._stage.settings.draft_rows)
            run = sequence.run_hidden(rows, step.position, spans, all_rows=not self._draws, draw=draw)
            is_over = await self._follow(step.block, run, gives_hidden=True)

    @property
    def _draws(self) -> bool:
        """Whether the peer draws the answer's tokens."""
        return not self._job.final_hidden

    async def _follow(self, index: int, events: AsyncGenerator[StageEvent, None], *, gives_hidden: bool) -> bool:
        """Send what comes of a run; whether the answer is over."""
        is_over, hidden = False, list[bytes]()
        async with contextlib.aclosing(events):
            async for event in events:
                match event:
                    case CellRows(data=data):
                        self._session.send_blocks([(index, data)], bulk=True)
                        await self._session.until_room(len(data), BLOCK_S)
                    case HiddenRows(data=data) if gives_hidden:
                        hidden.append(data)
                    case TokenStep():
                        self._session.send(token_of(event))
                    case Ran(reason=reason) if reason is not None:
                        kind = "stop" if reason == "stop" else "length"
                        self._session.send(Done(reason=kind, prompt_tokens=self._job.prompt_tokens))
                        is_over = True
                    case _:
                        continue
        if hidden:
            self._session.send_blocks([(index, b"".join(hidden))], bulk=False)
        return is_over


def step_rows(stage: StageModel) -> int:
    """How many tokens a step of an answer may have here: more than a batch is evaluated in several."""
    return STEP_ROWS if stage.settings.draft_rows else 1

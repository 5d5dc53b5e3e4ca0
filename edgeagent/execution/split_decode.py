"""Plan `split-decode`: layers `[0, k)` of a model here, the others at a peer, for the prompt and every token after it.

Each token's hidden state goes up. Down comes the token that the peer draws, or, where no text may leave, the final
hidden state that this machine draws from.
"""

import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from edgeagent.core.errors import EngineLostError, PeerError
from edgeagent.core.generation import Generation, TokenStep
from edgeagent.core.stages import HiddenType
from edgeagent.execution.executors import PeerModel, Steps, Traffic, peer_session
from edgeagent.execution.heads import Head, Output
from edgeagent.execution.peers import Peers
from edgeagent.execution.session import Session
from edgeagent.execution.split_drafts import SplitDrafts
from edgeagent.execution.split_draws import OUTPUT_TOKENS, DrawnHere, DrawnThere, Draws
from edgeagent.execution.splitting import HEAD_FAILURES, background, open_split, send_prompt, until_same
from edgeagent.execution.stage_sessions import StageSession
from edgeagent.wire.messages import STEP_ROWS, Accepted, Open, Step


class SplitDecodeExecutor:
    """With an `output` head this machine draws, else the peer.

    Raises PeerError, and EngineLostError also for a head that fails: another executor may go on.
    """

    def __init__(
        self, head: Head, peers: Peers, target: PeerModel, traffic: Traffic, output: Output | None = None
    ) -> None:
        self._head, self._peers, self._target, self._traffic = head, peers, target, traffic
        self._output = output
        self._drawn_rows = STEP_ROWS if output is None else output.batch_rows

    @property
    def name(self) -> str:
        onward = self._target.onward
        return f"split-decode with peer {self._target.peer}{f' and peer {onward.peer}' if onward else ''}"

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
        stage, room = await self._head.descriptor(), len(generation.prompt) + generation.max_tokens
        async with AsyncExitStack() as stack:
            head = await stack.enter_async_context(self._head.session(room))
            output = await self._open_output(stack, generation, stage.hidden)
            session = await stack.enter_async_context(
                peer_session(self._peers, self._target.peer, self._traffic, self._target.onward)
            )
            job = open_split(session, "split-decode", self._target, stage, generation, final_hidden=output is not None)
            draws: Draws = (
                DrawnHere(session, output, job, self._drawn_rows)
                if output is not None
                else DrawnThere(session, self._target, self._traffic)
            )
            accepted = await until_same(session, stage, self._target.wait_s)
            drafts = SplitDrafts(generation, self._step_rows(accepted), ends_early=draws.ends_early)
            answer = _Answer(head, self._head.batch_rows, session, job, drafts, draws, self._traffic)
            sending = await stack.enter_async_context(
                background(send_prompt(head, session, generation, stage, job.job))
            )
            tokens = await stack.enter_async_context(contextlib.aclosing(draws.tokens(sending)))
            while drawn := await answer.next(tokens):
                for token in drawn:
                    yield token
                if drawn[-1].is_end or drawn[-1].position + 1 == generation.max_tokens:
                    return
                await sending
                await answer.step(drawn[-1])
            raise PeerError(f"peer {self._target.peer} ended the answer before its limit, and not by itself")

    def _step_rows(self, accepted: Accepted) -> int:
        """How many tokens a step may have. Each end evaluates them in batches that change no bit there."""
        return min(STEP_ROWS, accepted.max_rows or 1) if self._head.batch_rows and self._drawn_rows else 1

    async def _open_output(
        self, stack: AsyncExitStack, generation: Generation, hidden: HiddenType
    ) -> StageSession | None:
        if self._output is None:
            return None
        stage, sampling = self._output.stage, generation.sampling
        opening = stage.session(OUTPUT_TOKENS, hidden, sampling=sampling, prompt=generation.prompt)
        return await stack.enter_async_context(opening)


class _Answer:
    """Steps of one answer: the newest token and guesses go up, what was right of them and one token more comes back."""

    def __init__(
        self,
        head: StageSession,
        batch_rows: int,
        session: Session,
        job: Open,
        drafts: SplitDrafts,
        draws: Draws,
        traffic: Traffic,
    ) -> None:
        self._head, self._batch_rows, self._session, self._job = head, batch_rows, session, job
        self._num_chunks = len(job.block_sizes())
        self._drafts, self._draws, self._traffic = drafts, draws, traffic
        self._guesses: tuple[int, ...] = ()
        self._begun_at = time.monotonic()

    async def next(self, tokens: AsyncIterator[TokenStep]) -> list[TokenStep]:
        """What came of the last step (at first: of the prompt); empty when the peer has ended the answer."""
        drawn: list[TokenStep] = []
        async for token in tokens:
            drawn.append(token)
            number = len(drawn) - 1
            is_right = number < len(self._guesses) and token.token == self._guesses[number]
            if not is_right or token.is_end or token.position + 1 == self._job.max_tokens:
                break
        took_s = time.monotonic() - self._begun_at
        if drawn and drawn[0].position == 0:
            # Each chunk is worked on by both ends, which work at once on all but the first and the last half.
            chunk_tokens = self._job.prompt_tokens // self._num_chunks
            self._drafts.begin(drawn[0].token, chunk_tokens, 2 * took_s / (self._num_chunks + 1))
        elif drawn:
            self._drafts.note([token.token for token in drawn], took_s)
            self._traffic.accepted_tokens += min(len(drawn) - 1, len(self._guesses))
        return drawn

    async def step(self, newest: TokenStep) -> None:
        """Send the newest token, and what may follow it."""
        self._begun_at = time.monotonic()
        self._guesses = self._drafts.propose(self._job.max_tokens - newest.position - 2)
        self._traffic.drafted_tokens += len(self._guesses)
        position, block = self._job.prompt_tokens + newest.position, self._num_chunks + newest.position
        rows = await self._head.hidden_states([newest.token, *self._guesses], position, self._batch_rows)
        self._draws.expect(block, self._guesses)
        # Who takes hidden states back learns nothing of the guesses but their number.
        told = (0,) * len(self._guesses) if self._job.final_hidden else self._guesses
        self._session.send(Step(block=block, position=position, guesses=told))
        self._session.send_blocks([(block, rows)], bulk=False)

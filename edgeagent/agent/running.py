"""Runs a planned answer over its chain of executors and turns tokens into text."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from edgeagent.agent.language.gbnf import completion
from edgeagent.agent.shown import ShownTokens
from edgeagent.agent.tally import Tally
from edgeagent.agent.textstream import TextStream
from edgeagent.core.chat import ChatRequest
from edgeagent.core.errors import EdgeAgentError, EngineLostError, ModelNotFoundError, PeerError, RequestError
from edgeagent.core.events import Event, Finished, FinishReason, HandedOver, Text, Usage
from edgeagent.core.generation import Generation, TokenStep
from edgeagent.core.plan import Handover, PlanKind
from edgeagent.core.stages import WIRE_BITS
from edgeagent.execution.admission import Claim, Turns
from edgeagent.execution.executors import Executor, LocalExecutor, PeerModel, RemoteExecutor
from edgeagent.execution.handover import complete
from edgeagent.execution.heads import HeadOfFile, HeadOfWhole, Output
from edgeagent.execution.meeting import PrefillExecutor
from edgeagent.execution.peers import Peers
from edgeagent.execution.split_decode import SplitDecodeExecutor
from edgeagent.execution.splitting import SplitPrefillExecutor
from edgeagent.model.resident import Resident

LOCAL_TRIES = 3
"""Engine workers that may die under one answer before it fails."""
PEER_TRIES = 2
"""Peers that may be lost under one answer of another model before this machine's goes on."""
ANOTHER_PEER = "another peer that holds the same variant"

Steps = AsyncGenerator[TokenStep | Handover, None]

StandIn = Callable[[Resident], AbstractAsyncContextManager[Resident]]
"""The best whole model of this machine, in use while inside, in place of one of which only a head is here.

Raises EdgeAgentError when there is none."""


@contextlib.asynccontextmanager
async def nobody(lost: Resident) -> AsyncGenerator[Resident, None]:
    """A stand-in where nothing is known of other models."""
    raise ModelNotFoundError(f"no other model than {lost.card.id} is here; pull one")
    yield lost


class Run:
    """One answer under way, in its turn at the engine, which it leaves while a peer answers alone.

    `peers` is needed for the plans that name one, `stand_in` where only a head of the model is here; that model gives a
    turn by the same `claim`.
    """

    def __init__(
        self,
        request: ChatRequest,
        tally: Tally,
        resident: Resident,
        peers: Peers | None,
        turns: Turns,
        stand_in: StandIn,
        claim: Claim,
    ) -> None:
        self._tally = tally
        self._claim = claim
        self._stand_in = stand_in
        self._turns = turns
        self._resident = resident
        self._peers = peers
        self._stream = TextStream(request.stop)
        self._shown = ShownTokens() if request.sampling.logprobs is not None else None
        self._generation = Generation(
            id=secrets.token_hex(8),
            variant_sha256=resident.variant.sha256 or "",
            prompt=tally.draft.tokens,
            sampling=request.sampling,
            max_tokens=tally.max_tokens,
            adapter=tally.adapter,
            pruning=tally.draft.pruning,
        )

    async def events(self) -> AsyncGenerator[Event, None]:
        """Text and HandedOver, then Finished. Raises EngineLostError when no executor is left."""
        reason: FinishReason = "length"
        async with contextlib.aclosing(self._steps()) as steps:
            async for step in steps:
                if isinstance(step, Handover):
                    self._tally.handovers.append(step)
                    yield HandedOver(step)
                elif step.is_end:
                    reason = "stop"
                    break
                else:
                    self._tally.token_times.append(time.monotonic())
                    if text := self._feed(step):
                        yield text
                    if self._stream.is_stopped:
                        reason = "stop"
                        break
        if reason == "length" and self._tally.limit_note:
            self._tally.notes.append(self._tally.limit_note)
        if text := await self._rest(reason):
            yield text
        usage = Usage(len(self._generation.prompt), self._tally.num_tokens)
        yield Finished(reason, usage, self._tally.report())

    def _feed(self, step: TokenStep) -> Text | None:
        if self._shown is not None:
            self._shown.add(step, len(self._stream.text))
        return self._text(self._stream.feed(step.piece))

    def _text(self, text: str) -> Text | None:
        if not text:
            return None
        return Text(text, self._shown.take(len(self._stream.shown)) if self._shown is not None else ())

    async def _rest(self, reason: FinishReason) -> Text | None:
        """What was held back; and the shortest end of a document that the token limit cut."""
        text = await self._closing() if reason == "length" and self._generation.sampling.grammar is not None else ""
        if self._shown is not None and (lacking := self._shown.num_lacking):
            self._tally.notes.append(f"{lacking} tokens are without log-probabilities, which the peer does not report")
        return self._text(text + self._stream.flush())

    async def _closing(self) -> str:
        """The end of the document, as far as no stop string is in it."""
        assert self._generation.sampling.grammar is not None
        self._stream.drop_part()
        try:
            end = await asyncio.to_thread(completion, self._generation.sampling.grammar, self._stream.text)
        except RequestError:
            end = None
        if end is None:
            self._tally.notes.append("the token limit cut the document, and it could not be closed; allow more tokens")
        elif end:
            self._tally.notes.append(f"the token limit cut the document; its last {len(end)} characters only close it")
        return self._stream.feed((end or "").encode())

    async def _steps(self) -> Steps:
        chain = self._chain()
        if isinstance(chain[0], RemoteExecutor):
            self._turns.leave()
        journal = self._for(chain)
        lost: EdgeAgentError
        for tries_left in reversed(range(PEER_TRIES)):
            try:
                async with contextlib.aclosing(complete(journal, chain)) as steps:
                    async for step in steps:
                        yield step
                        if isinstance(step, TokenStep):
                            journal = journal.extended(step.token)
            except (PeerError, EngineLostError) as error:
                # Only another model's answer, or one of a head, can end up here with a peer's error.
                if isinstance(error, EngineLostError) and self._resident.head is None:
                    raise
                lost = error
            else:
                return
            if (
                not tries_left
                or not isinstance(chain[0], RemoteExecutor)
                or not chain[0].has_other(len(journal.output))
            ):
                break
            yield Handover(at_token=len(journal.output), from_=chain[0].name, to=ANOTHER_PEER, reason=str(lost))
        async with self._next_model(lost) as resident, contextlib.aclosing(self._switch(lost, resident)) as steps:
            async for step in steps:
                yield step

    @contextlib.asynccontextmanager
    async def _next_model(self, error: EdgeAgentError) -> AsyncGenerator[Resident, None]:
        """A whole model of this machine, in its turn there. Raises PeerError when there is none."""
        if self._resident.head is None:
            yield self._resident
            return
        await self._resident.unload()  # its memory may be what the other one needs
        async with contextlib.AsyncExitStack() as stack:
            try:
                other = await stack.enter_async_context(self._stand_in(self._resident))
                claim = replace(self._claim, since_s=None)  # its place is at the head's engine
                self._turns = stack.enter_context(other.local.admission.turns(claim))
                await self._turns.take()
            except EdgeAgentError as lack:
                raise PeerError(f"{error}; {self._resident.card.id} cannot go on here, and {lack}") from error
            yield other

    async def _switch(self, error: EdgeAgentError, resident: Resident) -> Steps:
        """Another model's answer broke off: this machine's model goes on from its text, marked in the report."""
        tally, made = self._tally, self._tally.num_tokens
        rest = await self._fitting(await self._continued(max(1, tally.max_tokens - made), resident), resident)
        if rest is None and not made:
            raise error
        if rest is None:
            tally.notes.append(f"the answer ends where the peer was lost ({error}): no more fits the context here")
            return
        here = f"{resident.card.id} {resident.variant.name}"
        yield Handover(
            at_token=made,
            from_=f"{tally.model} on peer {tally.traffic.peer or tally.decision.chosen.peer}",
            to=f"local {here}",
            reason=f"{error}; another model goes on",
        )
        tally.model, tally.variant = resident.card.id, resident.variant.name
        async with contextlib.aclosing(complete(rest, self._local(resident))) as steps:
            async for step in steps:
                yield step

    async def _fitting(self, rest: Generation, resident: Resident) -> Generation | None:
        """As much of it as this machine's context holds, which may be smaller than the peer's; None: nothing."""
        context = (await resident.whole.facts()).context_tokens
        left = context - len(rest.prompt)
        if left <= len(rest.output):
            return None
        if rest.max_tokens > left:
            self._tally.limit_note = f"the answer ends where the context of {context} tokens is full"
        return replace(rest, max_tokens=min(rest.max_tokens, left))

    async def _continued(self, num_left: int, resident: Resident) -> Generation:
        """That model's Generation behind the text that is there. A grammar has to take that text first."""
        self._stream.drop_part()  # the other model's tokens do not finish it
        local, turns, text = resident.whole, self._tally.draft.turns, self._stream.text
        whole = await local.encode(turns, answer_prefix=text)
        rest = replace(
            self._generation, variant_sha256=resident.variant.sha256 or "", prompt=whole, max_tokens=num_left
        )
        if resident is not self._resident and rest.sampling.logit_bias:
            self._tally.notes.append("logit_bias is not applied from here on: its token ids are another model's")
            rest = replace(rest, sampling=rest.sampling.model_copy(update={"logit_bias": ()}))
        if self._generation.sampling.grammar is None:
            return rest
        prompt = await local.encode(turns)
        output = whole[len(prompt) :]
        return replace(rest, prompt=prompt, output=output, max_tokens=len(output) + num_left)

    def _for(self, chain: Sequence[Executor]) -> Generation:
        """What the chain extends: another model's vocabulary knows nothing of the token ids of a bias."""
        generation, first = self._generation, chain[0]
        if not (isinstance(first, RemoteExecutor) and first.speaks_text) or not generation.sampling.logit_bias:
            return generation
        self._tally.notes.append("logit_bias is not applied: its token ids are not those of the model that answers")
        return replace(generation, sampling=generation.sampling.model_copy(update={"logit_bias": ()}))

    def _split(self, target: PeerModel) -> Executor:
        chosen, traffic = self._tally.decision.chosen, self._tally.traffic
        head, output = self._resident.head, self._resident.output
        own = Output(output.stage, output.batch_rows or 0) if output else None
        assert self._peers is not None
        assert chosen.k is not None
        hidden = next(kind for kind, bits in WIRE_BITS.items() if bits == chosen.wire_bits)
        if head is not None:
            of_file = HeadOfFile(head.stage, self._resident.card.id, head.batch_rows, hidden)
            return SplitDecodeExecutor(of_file, self._peers, target, traffic, own)
        of_whole = HeadOfWhole(self._resident.whole, self._resident.card.id, chosen.k, hidden)
        if chosen.plan is PlanKind.SPLIT_PREFILL:
            return SplitPrefillExecutor(of_whole, self._peers, target, traffic, self._turns.urgency)
        return SplitDecodeExecutor(of_whole, self._peers, target, traffic, own)

    def _local(self, resident: Resident) -> Sequence[Executor]:
        return [LocalExecutor(resident.whole, self._tally.traffic, self._turns)] * LOCAL_TRIES

    def _chain(self) -> Sequence[Executor]:
        """The chosen executor, then those that can go on identically."""
        tally, target, resident = self._tally, self._tally.target, self._resident
        then = self._local(resident) if resident.head is None else []
        if tally.decision.chosen.plan is PlanKind.LOCAL:
            return then
        assert target is not None
        assert self._peers is not None
        if tally.decision.chosen.plan is PlanKind.PREFILL:
            first = PrefillExecutor(resident.whole, self._peers, target, tally.traffic, self._turns.urgency)
            return [first, *then]
        if tally.decision.chosen.plan.is_split:
            return [self._split(target), *then]
        if target.variant_sha256 and target.variant_sha256 == resident.variant.sha256:
            return [RemoteExecutor(self._peers, target, tally.traffic), *then]
        return [RemoteExecutor(self._peers, target, tally.traffic, tally.draft.turns)]

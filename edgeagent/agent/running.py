"""Runs a planned answer over its chain of executors and turns tokens into text."""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from edgeagent.agent.tally import Tally
from edgeagent.agent.textstream import TextStream
from edgeagent.core.chat import ChatRequest
from edgeagent.core.errors import PeerError
from edgeagent.core.events import Event, Finished, FinishReason, HandedOver, Text, Usage
from edgeagent.core.generation import Generation, TokenStep
from edgeagent.core.plan import Handover, PlanKind
from edgeagent.execution.executors import Executor, LocalExecutor, RemoteExecutor
from edgeagent.execution.handover import complete
from edgeagent.execution.meeting import PrefillExecutor
from edgeagent.execution.peers import Peers
from edgeagent.model.pool import Resident

LOCAL_TRIES = 3
"""Engine workers that may die under one answer before it fails."""

Steps = AsyncGenerator[TokenStep | Handover, None]


class Run:
    """One answer under way. `peers` is needed for the plans that name one."""

    def __init__(
        self, request: ChatRequest, tally: Tally, resident: Resident, peers: Peers | None, grammar: str | None
    ) -> None:
        self._tally = tally
        self._resident = resident
        self._peers = peers
        self._stream = TextStream(request.stop)
        self._generation = Generation(
            id=secrets.token_hex(8),
            variant_sha256=resident.variant.sha256 or "",
            prompt=tally.draft.tokens,
            sampling=request.sampling.model_copy(update={"grammar": grammar or request.sampling.grammar}),
            max_tokens=tally.max_tokens,
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
                    if text := self._stream.feed(step.piece):
                        yield Text(text)
                    if self._stream.is_stopped:
                        reason = "stop"
                        break
        if text := self._stream.flush():
            yield Text(text)
        usage = Usage(len(self._generation.prompt), self._tally.num_tokens)
        yield Finished(reason, usage, self._tally.report())

    async def _steps(self) -> Steps:
        try:
            async with contextlib.aclosing(complete(self._generation, self._chain())) as steps:
                async for step in steps:
                    yield step
        except PeerError as error:
            # Only another model's answer can end up here: every other chain ends with the local engine.
            async with contextlib.aclosing(self._switch(error)) as steps:
                async for step in steps:
                    yield step

    async def _switch(self, error: PeerError) -> Steps:
        """Another model's answer broke off: this machine's model goes on from its text, marked in the report."""
        tally, resident = self._tally, self._resident
        made = tally.num_tokens
        here = f"{resident.card.id} {resident.variant.name}"
        yield Handover(
            at_token=made,
            from_=f"{tally.model} on peer {tally.decision.chosen.peer}",
            to=f"local {here}",
            reason=f"{error}; another model goes on",
        )
        tally.model, tally.variant = resident.card.id, resident.variant.name
        prompt = await resident.local.encode(tally.draft.turns, answer_prefix=self._stream.shown)
        rest = replace(self._generation, prompt=prompt, max_tokens=max(1, tally.max_tokens - made))
        async with contextlib.aclosing(complete(rest, self._local())) as steps:
            async for step in steps:
                yield step

    def _local(self) -> Sequence[Executor]:
        return [LocalExecutor(self._resident.local, self._tally.traffic)] * LOCAL_TRIES

    def _chain(self) -> Sequence[Executor]:
        """The chosen executor, then those that can go on identically."""
        tally, target = self._tally, self._tally.target
        if tally.decision.chosen.plan is PlanKind.LOCAL:
            return self._local()
        assert target is not None
        assert self._peers is not None
        if tally.decision.chosen.plan is PlanKind.PREFILL:
            first = PrefillExecutor(self._resident.local, self._peers, target, tally.traffic)
            return [first, *self._local()]
        if target.variant_sha256 == self._resident.variant.sha256:
            return [RemoteExecutor(self._peers, target, tally.traffic), *self._local()]
        return [RemoteExecutor(self._peers, target, tally.traffic, tally.draft.turns)]

"""The local half of a prefill at two ends: a peer that never answers costs nothing. The real engine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest

from edgeagent.broker import background
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.execution.admission import USUAL, Urgency
from edgeagent.execution.executors import LocalExecutor, PeerModel, Traffic
from edgeagent.execution.local import EngineEvent, Evaluated, LoadSettings, LocalModel
from edgeagent.execution.meeting import PrefillExecutor
from edgeagent.execution.peers import Peers
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.model.store import StoredVariant
from edgeagent.wire.topics import Topics
from tests.machine import REPACKS

PEER = PeerModel("silent", "smollm2-135m-instruct", "0" * 64, "")
SETTINGS = LoadSettings(
    "", "", 256, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS, chunk_tokens=16
)  # fmt: skip


class CountingModel(LocalModel):
    """Counts prompt tokens that its engine evaluated."""

    num_evaluated = 0

    async def generate(
        self, generation: Generation, urgency: Urgency = USUAL, *, export_kv: bool = False, keep: bool = True
    ) -> AsyncGenerator[EngineEvent, None]:
        made = super().generate(generation, urgency, export_kv=export_kv, keep=keep)
        async with contextlib.aclosing(made) as events:
            async for event in events:
                if isinstance(event, Evaluated):
                    self._count(event)
                yield event

    async def prefill(self, prompt: Sequence[int], urgency: Urgency = USUAL) -> AsyncGenerator[Evaluated, None]:
        async with contextlib.aclosing(super().prefill(prompt, urgency)) as events:
            async for event in events:
                self._count(event)
                yield event

    def _count(self, event: Evaluated) -> None:
        # The first event of an operation tells what was there already.
        before = event.tokens if event.reused is not None else self._so_far
        self.num_evaluated += event.tokens - before
        self._so_far = event.tokens

    _so_far = 0


@pytest.mark.parametrize(("num_prompt", "free_prefill"), [(9, False), (40, False), (40, True)])
def test_no_token_is_evaluated_twice_beside_a_silent_peer(
    smollm2: StoredVariant, num_prompt: int, free_prefill: bool
) -> None:
    settings = replace(SETTINGS, path=str(smollm2.path), variant_sha256=smollm2.sha256)
    settings = replace(settings, invariance=Invariance(free_prefill=free_prefill))
    prompt = tuple(range(100, 100 + num_prompt))
    generation = Generation("g", smollm2.sha256, prompt, Sampling(temperature=0), max_tokens=3)

    async def scenario() -> None:
        model = CountingModel(settings)
        broker = MemoryBroker()
        peers = Peers(broker.connect(), Topics("test"), "kitchen")
        try:
            async with background(peers.run(), "peers"):
                met = await _tokens(PrefillExecutor(model, peers, PEER, Traffic()).extend(generation))
            num_evaluated = model.num_evaluated
            await model.close()
            assert met == await _tokens(LocalExecutor(model, Traffic()).extend(generation))
            assert num_evaluated == model.num_evaluated - num_evaluated == num_prompt
        finally:
            await model.close()

    asyncio.run(scenario())


async def _tokens(steps: AsyncGenerator[TokenStep, None]) -> list[int]:
    async with contextlib.aclosing(steps):
        return [step.token async for step in steps]

"""Requests that a peer answers: what they hold here meanwhile, and that no reader's pace is taken for the peer's."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.drafting import Material
from edgeagent.agent.situation import Surroundings
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.config import ModelsConfig, PolicyConfig
from edgeagent.core.events import Event, Finished, HandedOver, Text
from edgeagent.core.hardware import Rates
from edgeagent.core.plan import PlanKind
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.topics import Topics
from tests.machine import REPACKS

TOPICS = Topics("test")
QUESTION = "Tell me a long story about the harbour, the ferry and the storm."
PATIENCE_S = 60.0
LOCAL, REMOTE = Extension(plan=PlanKind.LOCAL), Extension(plan=PlanKind.REMOTE)


@dataclass
class Scene:
    """A device with one sequence of a model, and a peer that holds the same."""

    answerer: Answerer
    resident: Resident
    broker: MemoryBroker

    def ask(self, wish: Extension, max_tokens: int) -> AsyncGenerator[Event, None]:
        request = ChatRequest(messages=(Message(role="user", content=QUESTION),), max_tokens=max_tokens, edgeagent=wish)
        material = Material(request.messages, (), [], QUESTION)
        return self.answerer.answer(request, material, self.resident, None, 0.0)

    async def text(self, wish: Extension, max_tokens: int) -> str:
        async with contextlib.aclosing(self.ask(wish, max_tokens)) as events:
            return "".join([event.text async for event in events if isinstance(event, Text)])

    def silence(self) -> None:
        """Nothing of the peer arrives any more."""
        deliver = self.broker.deliver

        def silenced(topic: str, payload: bytes) -> None:
            if "/devices/" not in topic:
                deliver(topic, payload)

        self.broker.deliver = silenced  # type: ignore[method-assign]


Play = Callable[[Callable[[Scene], Awaitable[None]]], None]


@pytest.fixture
def play(smollm2: StoredVariant, encoder: Encoder) -> Play:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 512, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip

    async def locate() -> Encoder:
        return encoder

    async def body(use: Callable[[Scene], Awaitable[None]]) -> None:
        here, there = LocalModel(settings), LocalModel(settings)
        card, variant = smollm2.card, smollm2.variant
        resident = Resident(
            card, variant.model_copy(update={"sha256": smollm2.sha256}), "",
            Rates(prefill_tok_s=100, decode_tok_s=50), 0, here, 0.0,
        )  # fmt: skip
        model = OfferedModel(
            model=card.id, variant=variant.name, variant_sha256=smollm2.sha256,
            exact_key=(await there.facts()).exact_key, prefill_tok_s=100, decode_tok_s=50, context_tokens=512,
            kv_bytes_per_token=0,
        )  # fmt: skip
        broker, embedder = MemoryBroker(), OnnxEmbedder(locate, 384)
        service = PeerService(
            "garage", "test", broker.connect(), TOPICS, [Offer(model, lambda: contextlib.nullcontext(there))]
        )
        peers = Peers(broker.connect(), TOPICS, "kitchen")
        surroundings = Surroundings(PolicyConfig(), ModelsConfig(), peers)
        scene = Scene(Answerer(surroundings, embedder), resident, broker)
        try:
            async with background(service.run(), "peer"), background(peers.run(), "device"):
                await peers.wait_for_peer(5)
                await use(scene)
        finally:
            for each in (here, there):
                await each.close()
            await embedder.close()

    return lambda use: asyncio.run(body(use))


def test_answer_of_a_peer_leaves_the_engine_here_to_others(play: Play) -> None:
    async def use(scene: Scene) -> None:
        admission = scene.resident.local.admission
        async with contextlib.aclosing(scene.ask(REMOTE, 300)) as remote:
            async for event in remote:
                if isinstance(event, Text):
                    break
            assert (admission.num_running, admission.num_requests) == (0, 1)
            async with asyncio.timeout(PATIENCE_S):
                assert await scene.text(LOCAL, 4)
            assert admission.num_requests == 1  # the other answer is still under way
        assert admission.num_requests == 0

    play(use)


def test_peer_lost_while_another_request_has_the_engine_waits_for_it_and_costs_no_word(play: Play) -> None:
    async def use(scene: Scene) -> None:
        local = scene.resident.local
        undisturbed = await scene.text(LOCAL, 48)
        events: list[Event] = []
        async with (
            asyncio.timeout(PATIENCE_S),
            contextlib.aclosing(scene.ask(REMOTE, 48)) as remote,
            contextlib.AsyncExitStack() as other,
        ):
            async for event in remote:
                if isinstance(event, Text) and not any(isinstance(each, Text) for each in events):
                    scene.silence()
                    await other.enter_async_context(local.lease())
                elif isinstance(event, HandedOver):
                    await until(lambda: local.admission.num_waiting == 1)
                    await other.aclose()
                events.append(event)
        assert "".join(event.text for event in events if isinstance(event, Text)) == undisturbed
        [marked] = [event.handover for event in events if isinstance(event, HandedOver)]
        assert 0 < marked.at_token < 48
        assert (marked.from_, marked.to) == ("peer garage", "local")
        assert local.admission.num_requests == 0

    play(use)


@pytest.mark.parametrize("wish", [LOCAL, REMOTE], ids=["local", "remote"])
def test_reader_that_takes_its_time_is_not_taken_for_a_slow_engine_or_peer(play: Play, wish: Extension) -> None:
    """It reads no second word before the answer has long been made."""

    async def use(scene: Scene) -> None:
        begun_s, done_s = time.monotonic(), None
        async with contextlib.aclosing(scene.ask(wish, 24)) as events:
            async for event in events:
                if isinstance(event, Text) and done_s is None:
                    await until(lambda: scene.resident.local.admission.num_requests == 0)
                    done_s = time.monotonic()
                    await asyncio.sleep(0.2)
                last = event
        assert isinstance(last, Finished)
        measured = last.report.measured
        assert done_s is not None
        assert measured.ttft_s is not None
        assert measured.tpot_s is not None
        assert measured.ttft_s + 23 * measured.tpot_s <= done_s - begun_s

    play(use)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110  (it has no event)
            await asyncio.sleep(0.01)

"""Requests whose text may not leave, to a model that is whole here with its output head beside it. Real engines."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.drafting import Material
from edgeagent.agent.situation import Surroundings
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.config import ModelsConfig, PolicyConfig
from edgeagent.core.errors import WireError
from edgeagent.core.events import Event, Finished, Text
from edgeagent.core.generation import Sampling
from edgeagent.core.plan import AnswerReport, PlanKind, ReductionLevel
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.loading import LoadSettings
from edgeagent.execution.peers import Peers
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.model.resident import Resident
from edgeagent.model.slicing import slice_variant, stage_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from edgeagent.wire.frames import HEADER_BYTES
from edgeagent.wire.messages import OfferedModel, Open, Token, decode_message
from edgeagent.wire.topics import Topics
from tests.model.test_heads import MB, MODEL, link, pool_of, store_in

K, LAYERS, NUM_TOKENS = 8, 30, 16
TOPICS = Topics("test")
QUESTION = "Tell me about the harbour, the ferry and the storm."


@dataclass
class Scene:
    """A device with the whole and its output head, and a peer with the rest from `K` on."""

    answerer: Answerer
    resident: Resident
    peers: Peers
    broker: MemoryBroker

    async def ask(
        self, plan: PlanKind, temperature: float, seen: Callable[[int], None] = lambda _num: None
    ) -> list[Event]:
        request = ChatRequest(
            messages=(Message(role="user", content=QUESTION),),
            max_tokens=NUM_TOKENS,
            model=MODEL,
            sampling=Sampling(temperature=temperature, seed=3),
            edgeagent=Extension(plan=plan, reduce=ReductionLevel.L0),
        )
        events: list[Event] = []
        material = Material(request.messages, (), [], QUESTION)
        async with contextlib.aclosing(self.answerer.answer(request, material, self.resident, None, 0.0)) as stream:
            async for event in stream:
                events.append(event)
                seen(sum(isinstance(each, Text) for each in events))
        return events


Body = Callable[[Scene], Awaitable[None]]


@pytest.fixture(scope="module")
def own(embedded_store: ModelStore, smollm2: StoredVariant, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A model folder with the whole, its output head and a tail."""
    store = store_in(tmp_path_factory.mktemp("models"), embedded_store)
    link(smollm2, store)

    async def slices() -> None:
        for cut in ((LAYERS, LAYERS), (K, LAYERS)):
            await slice_variant(store, MODEL, *cut, spawn_llama, base=smollm2.variant.name)

    asyncio.run(slices())
    return store


@pytest.fixture
def play(own: ModelStore, smollm2: StoredVariant, encoder: Encoder) -> Callable[[Body], None]:
    async def locate() -> Encoder:
        return encoder

    async def body(use: Body) -> None:
        embedder, broker = OnnxEmbedder(locate, 384), MemoryBroker()
        tail_file = own.find(MODEL, f"{smollm2.variant.name}-{K}to{LAYERS}")
        assert tail_file is not None
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(embedder.close)
            pool = await stack.enter_async_context(pool_of(own, 700 * MB, draws_here=True))
            resident = await stack.enter_async_context(pool.lease(MODEL))
            tail = StageModel(like(resident, tail_file), *stage_of(tail_file))
            stack.push_async_callback(tail.close)
            model = OfferedModel(
                model=MODEL, variant=smollm2.variant.name, variant_sha256=smollm2.sha256,
                exact_key=(await resident.whole.facts()).exact_key, prefill_tok_s=100, decode_tok_s=50,
                context_tokens=512, kv_bytes_per_token=0, cuts=(K,), final_hidden=True,
            )  # fmt: skip
            offer = Offer(
                model, lambda: contextlib.nullcontext(resident.whole), lambda _k: contextlib.nullcontext(tail)
            )
            peers = Peers(broker.connect(), TOPICS, "kitchen")
            service = PeerService("garage", "test", broker.connect(), TOPICS, [offer])
            await stack.enter_async_context(background(service.run(), "peer"))
            await stack.enter_async_context(background(peers.run(), "device"))
            await peers.wait_for_peer(5)
            surroundings = Surroundings(PolicyConfig(text_may_leave=False), ModelsConfig(), peers)
            await use(Scene(Answerer(surroundings, embedder), resident, peers, broker))

    return lambda use: asyncio.run(body(use))


def like(resident: Resident, stored: StoredVariant) -> LoadSettings:
    return replace(resident.whole.settings, path=str(stored.path), variant_sha256=stored.sha256, context_tokens=512)


def told(events: list[Event]) -> tuple[str, AnswerReport]:
    """The words, and the report."""
    finished = events[-1]
    assert isinstance(finished, Finished)
    return "".join(event.text for event in events if isinstance(event, Text)), finished.report


def test_private_answer_is_shared_with_a_peer_which_sees_no_token_of_it(play: Callable[[Body], None]) -> None:
    async def use(scene: Scene) -> None:
        tokens, opened, deliver = list[Token](), list[Open](), scene.broker.deliver

        def tapped(topic: str, payload: bytes) -> None:
            with contextlib.suppress(WireError):
                message = decode_message(payload[HEADER_BYTES:])
                tokens.extend([message] if isinstance(message, Token) else [])
                opened.extend([message] if isinstance(message, Open) else [])
            deliver(topic, payload)

        scene.broker.deliver = tapped  # type: ignore[method-assign]
        for temperature in (0.0, 0.8):
            alone, _ = told(await scene.ask(PlanKind.LOCAL, temperature))
            got, report = told(await scene.ask(PlanKind.SPLIT_DECODE, temperature))
            assert (report.plan, report.k, report.handover) == (PlanKind.SPLIT_DECODE, K, ())
            assert got == alone
        assert tokens == []
        assert [job.final_hidden for job in opened if job.job == "split-decode"] == [True, True]

    play(use)


@pytest.mark.parametrize("num_texts", [1, 7])
def test_private_answer_goes_on_here_with_the_same_words_when_the_peer_is_lost(
    play: Callable[[Body], None], num_texts: int
) -> None:
    async def use(scene: Scene) -> None:
        deliver = scene.broker.deliver

        def silenced(topic: str, payload: bytes) -> None:
            if "/devices/" not in topic:
                deliver(topic, payload)

        def cut(count: int) -> None:
            if count == num_texts:
                scene.broker.deliver = silenced  # type: ignore[method-assign]

        alone, _ = told(await scene.ask(PlanKind.LOCAL, 0.8))
        got, report = told(await scene.ask(PlanKind.SPLIT_DECODE, 0.8, cut))
        assert [(each.from_, each.to) for each in report.handover] == [("split-decode with peer garage", "local")]
        assert got == alone

    play(use)

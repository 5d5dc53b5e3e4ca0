"""Requests to a model of which only a head is here; what answers when the peer is lost. Real engines and protocol."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.drafting import Material
from edgeagent.agent.running import StandIn, nobody
from edgeagent.agent.situation import Surroundings
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.config import ModelsConfig, PolicyConfig
from edgeagent.core.errors import NoPlanError, PeerError
from edgeagent.core.events import Event, Finished, HandedOver, Text
from edgeagent.core.generation import Adapter
from edgeagent.core.hardware import Rates
from edgeagent.core.plan import PlanKind
from edgeagent.execution.admission import ANYONE, Claim, Priority
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.memory import MemoryBroker, MemoryTransport
from edgeagent.model.resident import HeldHead, Resident
from edgeagent.model.slicing import padding_of, slice_variant, stage_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.topics import Topics

K, LAYERS = 7, 30
TOPICS = Topics("test")
RATES = Rates(prefill_tok_s=100, decode_tok_s=50)
QUESTION = "Tell me about the harbour, the ferry and the storm."


@dataclass
class Scene:
    """A device with a head, a peer with the rest, and another model that may stand in."""

    embedder: OnnxEmbedder
    head: Resident
    other: Resident
    peers: Peers
    offered: OfferedModel
    peer_side: MemoryTransport
    broker: MemoryBroker
    policy: PolicyConfig = field(default_factory=PolicyConfig)

    async def until_seen(self, peer: str) -> None:
        async with asyncio.timeout(5):
            while all(view.status.id != peer for view in self.peers.views()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def stand_in(self, lost: Resident) -> AsyncIterator[Resident]:
        """When this is asked for, the head's memory has been given up."""
        assert lost is self.head
        assert not self.head.local.is_loaded
        yield self.other

    async def ask(
        self,
        stand_in: StandIn,
        *,
        seen: Callable[[int], None] = lambda _num: None,
        wish: Extension = Extension(plan="split-decode"),  # noqa: B008  (frozen)
        claim: Claim = ANYONE,
    ) -> list[Event]:
        request = ChatRequest(
            messages=(Message(role="user", content=QUESTION),), max_tokens=16, model=self.head.card.id, edgeagent=wish
        )
        material = Material(request.messages, (), [], QUESTION)
        events: list[Event] = []
        with self.head.local.admission.place(claim) as placed:
            surroundings = Surroundings(self.policy, ModelsConfig(), self.peers)
            answerer = Answerer(surroundings, self.embedder, stand_in)
            answer = answerer.answer(request, material, self.head, None, 0.0, placed)
            async with contextlib.aclosing(answer) as stream:
                async for event in stream:
                    events.append(event)
                    seen(sum(isinstance(each, Text) for each in events))
        return events


Body = Callable[[Scene], Awaitable[None]]


@pytest.fixture
def play(embedded_store: ModelStore, smollm2: StoredVariant, encoder: Encoder) -> Callable[[Body], None]:
    def settings(stored: StoredVariant) -> LoadSettings:
        return LoadSettings(
            str(stored.path), stored.sha256, 512, "q8_0", flash_attention=True, threads=1, extra_buffers=False,
            chunk_tokens=64,
        )  # fmt: skip

    async def cut(begin: int, end: int) -> StageModel:
        name = smollm2.variant.name
        stored = (await slice_variant(embedded_store, smollm2.card.id, begin, end, spawn_llama, base=name)).stored
        padding = padding_of(stored.path) if begin == 0 else None
        return StageModel(settings(stored), *stage_of(stored), padding)

    async def locate() -> Encoder:
        return encoder

    async def body(use: Body) -> None:
        head, tail, whole = await cut(0, K), await cut(K, LAYERS), LocalModel(settings(smollm2))
        card, variant = smollm2.card, smollm2.variant
        resident = Resident(
            card, variant.model_copy(update={"sha256": smollm2.sha256}), "", RATES, 0, head, 0.0,
            HeldHead(head, "no file of it is here", is_tried=True),
        )  # fmt: skip
        other = Resident(card.model_copy(update={"id": "other"}), variant, "", RATES, 0, whole, 0.0)
        model = OfferedModel(
            model=card.id, variant=variant.name, variant_sha256=smollm2.sha256,
            exact_key=(await head.facts()).exact_key, prefill_tok_s=100, decode_tok_s=50, context_tokens=512,
            kv_bytes_per_token=0, cuts=(K,),
        )  # fmt: skip
        broker, embedder = MemoryBroker(), OnnxEmbedder(locate, 384)
        peer_side = broker.connect()
        offer = Offer(model, lambda: contextlib.nullcontext(whole), lambda _k: contextlib.nullcontext(tail))
        service = PeerService("garage", "test", peer_side, TOPICS, [offer])
        peers = Peers(broker.connect(), TOPICS, "kitchen")
        scene = Scene(embedder, resident, other, peers, model, peer_side, broker)
        try:
            async with background(service.run(), "peer"), background(peers.run(), "device"):
                await peers.wait_for_peer(5)
                await use(scene)
        finally:
            for each in (head, tail, whole):
                await each.close()
            await embedder.close()

    return lambda use: asyncio.run(body(use))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def cut_after(scene: Scene, num_texts: int) -> Callable[[int], None]:
    """Nothing of the peer arrives once so many pieces of text are there."""
    deliver = scene.broker.deliver

    def silenced(topic: str, payload: bytes) -> None:
        if "/devices/" not in topic:
            deliver(topic, payload)

    def seen(count: int) -> None:
        if count == num_texts:
            scene.broker.deliver = silenced  # type: ignore[method-assign]

    return seen


def test_peer_lost_in_an_answer_leaves_it_to_another_model_and_the_switch_is_marked(
    play: Callable[[Body], None],
) -> None:
    async def use(scene: Scene) -> None:
        undisturbed = text_of(await scene.ask(nobody))
        events = await scene.ask(scene.stand_in, seen=cut_after(scene, 5))
        [marked] = [event.handover for event in events if isinstance(event, HandedOver)]
        assert marked.at_token >= 5
        assert (marked.from_, marked.to) == (f"{scene.head.card.id} on peer garage", f"local other {'Q4_1'}")
        finished = events[-1]
        assert isinstance(finished, Finished)
        assert (finished.report.plan, finished.report.model) == (PlanKind.SPLIT_DECODE, "other")
        assert finished.report.k == K
        # It is the same model under another name, so it goes on as nobody could tell.
        assert text_of(events) == undisturbed
        assert scene.other.local.is_loaded

    play(use)


def test_model_that_goes_on_gives_its_turn_by_the_claim_of_the_request(play: Callable[[Body], None]) -> None:
    async def use(scene: Scene) -> None:
        engine, claim = scene.other.local.admission, Claim("ann", Priority.LOW, deadline_s=1e9)
        async with engine.turn(ANYONE):
            asking = asyncio.create_task(scene.ask(scene.stand_in, seen=cut_after(scene, 5), claim=claim))
            while not engine.num_waiting and not asking.done():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert [(w.claim.user, w.claim.priority, w.claim.deadline_s) for w in engine._queue.waiting] == [
                ("ann", Priority.LOW, 1e9)
            ]
        assert isinstance((await asking)[-1], Finished)

    play(use)


def test_peer_lost_in_an_answer_is_an_error_where_no_model_can_go_on(play: Callable[[Body], None]) -> None:
    async def use(scene: Scene) -> None:
        with pytest.raises(PeerError, match="cannot go on here, and no other model"):
            await scene.ask(nobody, seen=cut_after(scene, 3))

    play(use)


def test_peer_that_is_gone_beforehand_leaves_the_request_to_another_model_and_says_so(
    play: Callable[[Body], None],
) -> None:
    async def use(scene: Scene) -> None:
        scene.peer_side.cut()
        scene.peers.trip("garage")
        events = await scene.ask(scene.stand_in)
        finished = events[-1]
        assert isinstance(finished, Finished)
        [marked] = finished.report.handover
        assert (marked.at_token, marked.to) == (0, "other Q4_1")
        assert (finished.report.plan, finished.report.model) == (PlanKind.LOCAL, "other")

    play(use)


@pytest.mark.parametrize("offered", [(), ("another",), ("another build",)])
def test_peers_that_could_not_take_its_place_do_not_keep_another_model_from_answering(
    play: Callable[[Body], None], offered: tuple[str, ...]
) -> None:
    """Its own peer is gone; another lives, with nothing, with another model, or with other bits of this one."""

    async def use(scene: Scene) -> None:
        served = {
            "another": scene.offered.model_copy(update={"model": "qwen", "variant_sha256": "1" * 64}),
            "another build": scene.offered.model_copy(update={"exact_key": "2" * 32}),
        }
        attic = PeerService("attic", "test", scene.broker.connect(), TOPICS, [Offer(served[each]) for each in offered])
        scene.policy = PolicyConfig(plans=(PlanKind.LOCAL, PlanKind.SPLIT_DECODE))
        async with background(attic.run(), "attic"):
            await scene.until_seen("attic")
            scene.peer_side.cut()
            scene.peers.trip("garage")
            finished = (await scene.ask(scene.stand_in))[-1]
        assert isinstance(finished, Finished)
        assert finished.report.model == "other"
        assert finished.report.handover[0].to == "other Q4_1"

    play(use)


def test_head_whose_rest_nobody_ever_had_is_not_left_to_another_model(play: Callable[[Body], None]) -> None:
    async def use(scene: Scene) -> None:
        scene.head.variant = scene.head.variant.model_copy(update={"sha256": "3" * 64})
        scene.policy = PolicyConfig(plans=(PlanKind.LOCAL, PlanKind.SPLIT_DECODE))
        with pytest.raises(NoPlanError, match="only the first 7 layers are here"):
            await scene.ask(scene.stand_in)
        assert not scene.other.local.is_loaded

    play(use)


def test_request_that_names_an_adapter_is_not_left_to_another_model(play: Callable[[Body], None]) -> None:
    async def use(scene: Scene) -> None:
        scene.peer_side.cut()
        scene.peers.trip("garage")
        scene.head.find_adapter = lambda name: Adapter(name, "1" * 64, "adapter.gguf")
        with pytest.raises(NoPlanError, match="only the first 7 layers are here"):
            await scene.ask(scene.stand_in, wish=Extension(adapter="pirate"))
        assert not scene.other.local.is_loaded

    play(use)

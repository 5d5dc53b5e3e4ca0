"""A split model over two peers, one behind the other: the words of one machine alone, whoever is lost. Real engines."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer, Ready
from edgeagent.application.relaying import Relay
from edgeagent.broker import background
from edgeagent.core.errors import PassedOnError, PeerError, PeerRefusedError, WireError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.core.plan import Handover
from edgeagent.core.stages import Cut
from edgeagent.execution.executors import LocalExecutor, PeerModel, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.heads import Head, HeadOfFile, HeadOfWhole, Output
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.split_decode import SplitDecodeExecutor
from edgeagent.execution.stage_trial import BATCHES, try_behind
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.execution.trust.sealed import SealedDevice, SealedPeer
from edgeagent.execution.trust.standing import Standing, load_standing
from edgeagent.execution.ways import DeviceWay, PeerWay
from edgeagent.model.slicing import padding_of, slice_variant, stage_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from edgeagent.wire.credentials import Role
from edgeagent.wire.frames import HEADER_BYTES
from edgeagent.wire.messages import Failed, Message, OfferedModel, Onward, Open, Step, Token, decode_message
from edgeagent.wire.sealing import Aead
from edgeagent.wire.topics import Topics
from tests.conftest import Mosquitto
from tests.machine import REPACKS
from tests.members import Members

K, M, LAYERS, CHUNK = 7, 19, 30, 64
TEXT = "The ferry leaves the small harbour at nine and comes back before the storm. " * 8
NUM_TOKENS = 10
RANGES = ((0, K), (K, M), (M, LAYERS), (LAYERS, LAYERS))


@dataclass(frozen=True, slots=True)
class Ways:
    """How the three machines come to sessions; None: plainly."""

    device: DeviceWay | None = None
    garage: PeerWay | None = None
    garage_as_device: DeviceWay | None = None
    attic: PeerWay | None = None


PLAIN = Ways()


@dataclass
class Ends:
    """A device, the peer `garage` that has the layers from K to M, and the peer `attic` that has those behind."""

    local: LocalModel
    stages: dict[Cut, StageModel]
    offer: OfferedModel
    peers: Peers
    relay: Relay
    broker: MemoryBroker
    attic: asyncio.Task[None]
    prompt: tuple[int, ...] = ()

    @property
    def target(self) -> PeerModel:
        assert self.offer.variant_sha256 is not None
        return PeerModel("garage", self.offer.model, self.offer.variant_sha256, "", onward=Onward(peer="attic", k=M))

    def stage(self, begin: int, end: int) -> StageModel:
        return self.stages[Cut.of(begin, end, LAYERS)]

    def generation(self, temperature: float) -> Generation:
        sampling = Sampling(temperature=temperature, seed=5)
        return Generation("g", self.target.variant_sha256, self.prompt, sampling, NUM_TOKENS)

    def executor(self, traffic: Traffic, head: Head | None = None, *, draws: bool = False) -> SplitDecodeExecutor:
        head = head or HeadOfWhole(self.local, self.target.model, K)
        output = Output(self.stage(LAYERS, LAYERS), 8) if draws else None
        return SplitDecodeExecutor(head, self.peers, self.target, traffic, output)

    async def alone(self, generation: Generation) -> list[int]:
        return await tokens(complete(generation, [LocalExecutor(self.local, Traffic())]))

    def broken(self) -> set[str]:
        return {view.status.id for view in self.peers.views() if self.peers.is_broken(view)}

    def listen(self) -> list[Message]:
        """The plain messages from now on."""
        messages: list[Message] = []
        deliver = self.broker.deliver

        def tapped(topic: str, payload: bytes) -> None:
            with contextlib.suppress(WireError):
                messages.append(decode_message(payload[HEADER_BYTES:]))
            deliver(topic, payload)

        self.broker.deliver = tapped  # type: ignore[method-assign]
        return messages


async def tokens(steps: AsyncIterator[TokenStep | Handover]) -> list[int]:
    return [step.token async for step in steps if isinstance(step, TokenStep)]


Scene = Callable[[Ends], Awaitable[None]]


class Making:
    """Peers whose layers are ready once both of them make theirs: one after the other, they never are."""

    def __init__(self) -> None:
        self._begun = [asyncio.Event(), asyncio.Event()]

    def offers(self, ready: tuple[Offer, Offer]) -> tuple[Offer, Offer]:
        first, second = ready
        assert first.between is not None
        assert second.tail is not None
        middle, tail = first.between(K, M), second.tail(M)

        def told() -> Ready:
            is_done = all(each.is_set() for each in self._begun)
            return Ready(((K, M), (M, LAYERS)) if is_done else (), 60.0)

        return (
            replace(first, between=lambda _k, _end: self._made(0, middle), ready=told),
            replace(second, tail=lambda _k: self._made(1, tail), ready=told),
        )

    @contextlib.asynccontextmanager
    async def _made(
        self, index: int, stage: contextlib.AbstractAsyncContextManager[StageModel]
    ) -> AsyncIterator[StageModel]:
        self._begun[index].set()
        async with asyncio.timeout(10):
            for each in self._begun:
                await each.wait()
        async with stage as model:
            yield model


class Town:
    """Engines of one process, and how they are joined."""

    def __init__(self, smollm2: StoredVariant, files: list[StoredVariant]) -> None:
        self._smollm2, self._files = smollm2, files

    def play(self, scene: Scene, ways: Ways = PLAIN, making: Making | None = None) -> None:
        """Over the in-memory transport. Layers are ready unless `making` has them made."""
        broker = MemoryBroker()

        async def connect(name: str) -> Transport:
            del name
            return broker.connect()

        asyncio.run(self._play(scene, connect, Topics("test"), ways, broker, making))

    def play_over(self, address: str, scene: Scene) -> None:
        """Over a real broker."""
        topics = Topics(f"test/{secrets.token_hex(4)}")

        async def connect(name: str) -> Transport:
            return await MqttTransport.connect(parse_address(address), f"{name}-{topics.prefix[5:]}")

        asyncio.run(self._play(scene, connect, topics, PLAIN, MemoryBroker()))

    def _settings(self, stored: StoredVariant) -> LoadSettings:
        return LoadSettings(
            str(stored.path), stored.sha256, 512, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
            chunk_tokens=CHUNK, invariance=Invariance(draft_batch=8, rewind=True),
        )  # fmt: skip

    def _stage(self, stored: StoredVariant) -> StageModel:
        cut, source = stage_of(stored)
        return StageModel(self._settings(stored), cut, source, padding_of(stored.path) if cut.ends_inside else None)

    async def _play(
        self,
        scene: Scene,
        connect: Callable[[str], Awaitable[Transport]],
        topics: Topics,
        ways: Ways,
        broker: MemoryBroker,
        making: Making | None = None,
    ) -> None:
        local = LocalModel(self._settings(self._smollm2))
        stages = {stage.cut: stage for stage in map(self._stage, self._files)}
        model = OfferedModel(
            model=self._smollm2.card.id, variant=self._smollm2.variant.name, variant_sha256=self._smollm2.sha256,
            exact_key="", prefill_tok_s=1, decode_tok_s=1, context_tokens=512, kv_bytes_per_token=0, cuts=(M,),
        )  # fmt: skip
        first = model.model_copy(update={"cuts": (), "most_between": M - K})
        middle, tail = stages[Cut.of(K, M, LAYERS)], stages[Cut.of(M, LAYERS, LAYERS)]
        async with contextlib.AsyncExitStack() as stack:
            for engine in (local, *stages.values()):
                stack.push_async_callback(engine.close)
            kitchen_end, garage_end, attic_end = [await connect(name) for name in ("kitchen", "garage", "attic")]
            relay = Relay(Peers(garage_end, topics, "garage", ways.garage_as_device), "garage", [model.variant_sha256])
            between, behind = contextlib.nullcontext(middle), contextlib.nullcontext(tail)
            offers = (Offer(first, between=lambda _k, _end: between), Offer(model, tail=lambda _k: behind))
            if making:
                offers = making.offers(offers)
            garage = PeerService("garage", "1", garage_end, topics, [offers[0]], ways.garage, relay=relay)
            attic = PeerService("attic", "1", attic_end, topics, [offers[1]], ways.attic)
            peers = Peers(kitchen_end, topics, "kitchen", ways.device)
            serving = asyncio.create_task(attic.run(), name="attic")
            stack.callback(serving.cancel)
            for work, name in ((garage.run(), "garage"), (peers.run(), "device"), (relay.run(), "relay")):
                await stack.enter_async_context(background(work, name))
            async with asyncio.timeout(10):
                while len(peers.views()) < 2 or not relay.links():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            ends = Ends(local, stages, model, peers, relay, broker, serving)
            ends.prompt = await local.encode([{"role": "user", "content": TEXT}])
            assert len(ends.prompt) > 2 * CHUNK
            await scene(ends)


@pytest.fixture(scope="module")
def town(embedded_store: ModelStore, smollm2: StoredVariant) -> Town:
    async def files() -> list[StoredVariant]:
        making = [
            slice_variant(embedded_store, smollm2.card.id, *cut, spawn_llama, base=smollm2.variant.name)
            for cut in RANGES
        ]
        return [(await each).stored for each in making]

    return Town(smollm2, asyncio.run(files()))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_chain_gives_the_words_of_the_whole_model(town: Town, temperature: float) -> None:
    async def scene(ends: Ends) -> None:
        traffic, wanted = Traffic(), ends.generation(temperature)
        got = await tokens(complete(wanted, [ends.executor(traffic)]))
        assert got == await ends.alone(wanted)
        assert traffic.peer_tokens == len(got)
        assert traffic.up_bytes > len(ends.prompt) * 576 * 4
        assert ends.broken() == set()

    town.play(scene)


def test_chain_over_a_real_broker_gives_the_words_of_the_whole_model(town: Town, mosquitto: Mosquitto) -> None:
    async def scene(ends: Ends) -> None:
        wanted = ends.generation(0.8)
        assert await tokens(complete(wanted, [ends.executor(Traffic())])) == await ends.alone(wanted)

    town.play_over(mosquitto.url, scene)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("draws_here", [False, True], ids=["attic-draws", "draws-here"])
def test_head_alone_and_two_peers_are_the_whole_model(town: Town, draws_here: bool) -> None:
    """With guesses, several tokens a step. Where this machine draws, no token crosses either link."""

    async def scene(ends: Ends) -> None:
        ends.prompt = await ends.local.encode([{"role": "user", "content": "Say it again: " + "one two three " * 30}])
        messages, traffic = ends.listen(), Traffic()
        head = HeadOfFile(ends.stage(0, K), ends.target.model, batch_rows=8)
        wanted = replace(ends.generation(0.0), max_tokens=32)
        got = await tokens(complete(wanted, [ends.executor(traffic, head, draws=draws_here)]))
        assert got == await ends.alone(wanted)
        assert traffic.accepted_tokens > 4
        steps = [each for each in messages if isinstance(each, Step)]
        assert len({(step.block, step.position) for step in steps}) * 2 == len(steps)  # each over both links
        assert any(any(step.guesses) for step in steps) is not draws_here
        assert any(isinstance(each, Token) for each in messages) is not draws_here
        opened = [each for each in messages if isinstance(each, Open) and each.stage]
        assert [(each.stage.k, each.onward) for each in opened if each.stage] == [(K, ends.target.onward), (M, None)]
        assert all(each.sampling == Sampling() for each in opened) is draws_here

    town.play(scene)


def test_both_peers_make_their_layers_at_the_same_time(town: Town) -> None:
    async def scene(ends: Ends) -> None:
        messages, wanted = ends.listen(), ends.generation(0.8)
        assert ends.relay.peers.making_s("attic", ends.target.model, M, LAYERS) == 60
        assert await tokens(complete(wanted, [ends.executor(Traffic())])) == await ends.alone(wanted)
        assert sum(isinstance(each, Open) and each.onward is None for each in messages) == 2  # roused, then asked
        assert ends.broken() == set()

    town.play(scene, making=Making())


def test_layers_between_are_tried_for_how_many_tokens_may_share_a_batch(town: Town) -> None:
    async def scene(ends: Ends) -> None:
        assert await try_behind(ends.stage(K, M), ends.local) in BATCHES

    town.play(scene)


def test_peer_tells_how_it_reaches_the_next_one(town: Town) -> None:
    async def scene(ends: Ends) -> None:
        [link] = ends.relay.links()
        assert link.peer == "attic"
        async with asyncio.timeout(10):
            while not next(v for v in ends.peers.views() if v.status.id == "garage").status.links:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    town.play(scene)


async def lost_after(executor: SplitDecodeExecutor, ends: Ends, num: int, lose: Callable[[], None]) -> list[int]:
    """The words of a chain that loses somebody behind so many tokens, and of the local engine from there on."""
    got, wanted = list[int](), ends.generation(0.8)
    async for step in complete(wanted, [executor, LocalExecutor(ends.local, Traffic())]):
        if isinstance(step, TokenStep):
            got.append(step.token)
            if len(got) == num:
                lose()
    assert got == await ends.alone(wanted)
    return got


@pytest.mark.parametrize("num", [1, 4])
def test_second_peer_that_is_lost_costs_no_word_and_is_the_one_blamed(town: Town, num: int) -> None:
    async def scene(ends: Ends) -> None:
        messages, deliver = ends.listen(), ends.broker.deliver

        def lose() -> None:
            """Nothing of the second peer's comes any more."""
            ends.broker.deliver = lambda topic, payload: (  # type: ignore[method-assign]
                None if "/devices/garage/" in topic else deliver(topic, payload)
            )

        await lost_after(ends.executor(Traffic()), ends, num, lose)
        assert ends.broken() == {"attic"}
        [told] = [each for each in messages if isinstance(each, Failed)]
        assert told.peer == "attic"

    town.play(scene)


def test_first_peer_that_is_lost_costs_no_word(town: Town) -> None:
    async def scene(ends: Ends) -> None:
        deliver = ends.broker.deliver

        def lose() -> None:
            ends.broker.deliver = lambda topic, payload: (  # type: ignore[method-assign]
                None if "/devices/kitchen/" in topic else deliver(topic, payload)
            )

        await lost_after(ends.executor(Traffic()), ends, 4, lose)
        assert ends.broken() == {"garage"}

    town.play(scene)


def test_second_peers_refusal_breaks_nobody(town: Town) -> None:
    async def scene(ends: Ends) -> None:
        target = replace(ends.target, onward=Onward(peer="attic", k=M - 1))
        head = HeadOfWhole(ends.local, target.model, K)
        with pytest.raises(PassedOnError, match="runs no layers") as told:
            await tokens(complete(ends.generation(0.0), [SplitDecodeExecutor(head, ends.peers, target, Traffic())]))
        assert told.value.is_refusal
        assert ends.broken() == set()

    town.play(scene)


@pytest.mark.parametrize("onward", [Onward(peer="attic", k=M + 1), Onward(peer="garage", k=M)])
def test_what_a_peer_does_not_pass_on_is_refused(town: Town, onward: Onward) -> None:
    """More layers than it runs between; itself, which has no layers behind those."""

    async def scene(ends: Ends) -> None:
        target, head = replace(ends.target, onward=onward), HeadOfWhole(ends.local, ends.target.model, K)
        with pytest.raises(PeerError, match=r"does not run layers 7 to 20|runs no layers"):
            await tokens(complete(ends.generation(0.0), [SplitDecodeExecutor(head, ends.peers, target, Traffic())]))

    town.play(scene)


def test_peer_that_passes_nothing_on_refuses(town: Town) -> None:
    async def scene(ends: Ends) -> None:
        target = replace(ends.target, peer="attic", onward=Onward(peer="garage", k=M))
        head = HeadOfWhole(ends.local, target.model, K)
        with pytest.raises(PeerRefusedError, match="does not run layers 7 to 19"):
            await tokens(complete(ends.generation(0.0), [SplitDecodeExecutor(head, ends.peers, target, Traffic())]))

    town.play(scene)


class Fleet:
    """Members of one fleet, each with keys of its own."""

    def __init__(self, folder: Path) -> None:
        self._members = Members(folder)

    def member(self, name: str, *roles: Role, plans: tuple[str, ...] | None = None) -> Standing:
        standing = load_standing(self._members.enroll(name, *roles, plans=plans), time.time)
        assert standing is not None
        return standing

    def ways(self, garage: Standing) -> Ways:
        aead = Aead.AES_256_GCM
        return Ways(
            SealedDevice(self.member("kitchen", "device"), aead),
            SealedPeer(garage, time.time),
            SealedDevice(garage, aead),
            SealedPeer(self.member("attic", "peer"), time.time),
        )


def test_peer_that_passes_on_is_a_device_of_the_fleet_to_the_next_one(town: Town, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)

    async def scene(ends: Ends) -> None:
        messages, wanted = ends.listen(), ends.generation(0.8)
        assert await tokens(complete(wanted, [ends.executor(Traffic())])) == await ends.alone(wanted)
        assert not any(isinstance(each, Open | Token) for each in messages)  # all of it was sealed

    town.play(scene, fleet.ways(fleet.member("garage", "peer", "device")))


def test_next_peer_takes_nothing_from_one_whose_credential_does_not_allow_it(town: Town, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    garage = fleet.member("garage", "peer", "device", plans=("remote",))

    async def scene(ends: Ends) -> None:
        with pytest.raises(PeerRefusedError, match="no credential allows this peer split-decode with peer 'attic'"):
            await tokens(complete(ends.generation(0.0), [ends.executor(Traffic())]))

    town.play(scene, fleet.ways(garage))

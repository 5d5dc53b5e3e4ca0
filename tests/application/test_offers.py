"""Several peers behind one shared subscription of a real broker, with the real engine: who takes a job, who next."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from edgeagent.application.claiming import MAX_KEPT
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.errors import PeerLostError, PeerRefusedError
from edgeagent.core.generation import Generation, Sampling
from edgeagent.execution import offering
from edgeagent.execution.executors import NOTHING, PeerModel, RemoteExecutor, Traffic
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.model.store import StoredVariant
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.notes import decode_plain
from edgeagent.wire.offers import JobClaim
from edgeagent.wire.topics import Topics
from tests.conftest import Mosquitto
from tests.machine import REPACKS

PATIENCE_S = 60.0
TURNS = [{"role": "user", "content": "Count from one to twenty."}]
NUM_TOKENS = 12


class Yard:
    """Peers with one engine between them, and one device."""

    def __init__(self, engine: LocalModel, stored: StoredVariant, broker: Mosquitto) -> None:
        self.engine = engine
        self.topics = Topics(f"test/{secrets.token_hex(4)}")
        self.model = OfferedModel(
            model=stored.card.id, variant=stored.variant.name, variant_sha256=stored.sha256, exact_key="",
            prefill_tok_s=100, decode_tok_s=10, context_tokens=1024, kv_bytes_per_token=0,
        )  # fmt: skip
        self.target = PeerModel("garage", stored.card.id, stored.sha256, "")
        self._broker = broker

    @contextlib.asynccontextmanager
    async def connected(self, name: str) -> AsyncIterator[MqttTransport]:
        transport = await MqttTransport.connect(parse_address(self._broker.url), f"{name}-{secrets.token_hex(4)}")
        try:
            yield transport
        finally:
            await transport.close()

    @contextlib.asynccontextmanager
    async def peer(self, name: str, capacity: int = 8) -> AsyncIterator[PeerService]:
        offers = [Offer(self.model, lambda: contextlib.nullcontext(self.engine))]
        async with self.connected(name) as transport:
            service = PeerService(name, "test", transport, self.topics, offers, capacity=capacity)
            async with background(service.run(), name):
                yield service

    @contextlib.asynccontextmanager
    async def device(self, *awaited: str) -> AsyncIterator[Peers]:
        """Which knows these peers."""
        async with self.connected("kitchen") as transport:
            peers = Peers(transport, self.topics, "kitchen")
            async with background(peers.run(), "kitchen"), asyncio.timeout(PATIENCE_S):
                while {view.status.id for view in peers.views()} != set(awaited):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                yield peers

    def remote(self, peers: Peers, traffic: Traffic) -> RemoteExecutor:
        return RemoteExecutor(peers, self.target, traffic, TURNS)

    def generation(self, output: Sequence[int] = ()) -> Generation:
        return Generation("g", self.target.variant_sha256, (), Sampling(temperature=0.8, seed=3), NUM_TOKENS,
                          tuple(output))  # fmt: skip


In = Callable[[Callable[[Yard], Awaitable[None]]], None]


@pytest.fixture
def in_yard(smollm2: StoredVariant, mosquitto: Mosquitto) -> In:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 1024, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip

    def run(scene: Callable[[Yard], Awaitable[None]]) -> None:
        async def body() -> None:
            engine = LocalModel(settings)
            try:
                await scene(Yard(engine, smollm2, mosquitto))
            finally:
                await engine.close()

        asyncio.run(body())

    return run


def test_job_goes_to_the_peer_that_has_less_to_do(in_yard: In, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "LEAST_PATIENCE_S", 1.0)  # on a busy CPU the second claim is late

    async def scene(yard: Yard) -> None:
        async with yard.peer("garage") as garage, yard.peer("attic") as attic, yard.device("garage", "attic") as peers:
            wanted = yard.target.wanted("remote", yard.generation())
            for busy, free in ((garage, "attic"), (attic, "garage")):
                share = busy._workload.begin("cellar", 30.0)
                assert [await peers.place(wanted, "garage") for _ in range(4)] == [free] * 4
                busy._workload.end(share)

    in_yard(scene)


def test_offer_that_nobody_answers_is_made_again_and_one_that_has_no_time_for_it_is_lost(in_yard: In) -> None:
    async def scene(yard: Yard) -> None:
        async with contextlib.AsyncExitStack() as stack:
            peers = await stack.enter_async_context(_with_two(stack, yard))
            for _ in range(5):  # the broker gives offers to these, too, and they are silent
                gone = await stack.enter_async_context(yard.connected("gone"))
                gone.subscribe(yard.topics.shared_offers(yard.model.model))
            await asyncio.sleep(0.2)
            placed, lost = [], 0
            for has_time in (False, False, True):  # the broker's turns: to both, to silent ones, to some of these again
                wanted = yard.target.wanted("remote", yard.generation(), has_time=has_time)
                try:
                    placed.append(await peers.place(wanted, "garage"))
                except PeerLostError:
                    lost += 1
            assert set(placed) <= {"garage", "attic"}
            assert (lost, len(placed)) == (1, 2)

    in_yard(scene)


@contextlib.asynccontextmanager
async def _with_two(stack: contextlib.AsyncExitStack, yard: Yard) -> AsyncIterator[Peers]:
    for name in ("garage", "attic"):
        await stack.enter_async_context(yard.peer(name))
    async with yard.device("garage", "attic") as peers:
        yield peers


def test_peers_that_have_no_room_refuse_and_are_not_taken_for_broken(in_yard: In) -> None:
    async def scene(yard: Yard) -> None:
        async with (
            yard.peer("garage", capacity=0),
            yard.peer("attic", capacity=0),
            yard.device("garage", "attic") as peers,
        ):
            with pytest.raises(PeerRefusedError):
                async for _ in yard.remote(peers, Traffic()).extend(yard.generation()):
                    pass
            assert not any(peers.is_broken(view) for view in peers.views())

    in_yard(scene)


def test_offer_that_somebody_kept_gets_no_place_at_a_peer_that_was_started_since(in_yard: In) -> None:
    async def scene(yard: Yard) -> None:
        async with yard.connected("thief") as thief, asyncio.timeout(PATIENCE_S):
            offers = thief.subscribe(yard.topics.offers(yard.model.model))
            wanted = yard.target.wanted("remote", yard.generation())
            async with yard.peer("garage"), yard.peer("attic"), yard.device("garage", "attic") as peers:
                await peers.place(wanted, "garage")
                kept = await offers.get()
            async with yard.peer("garage") as garage:
                answers = thief.subscribe(yard.topics.to_device("kitchen"))
                claim = None
                while claim is None:  # the broker gives some to sessions of the first lives
                    thief.publish(*kept)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.2):
                            claim = decode_plain(JobClaim, (await answers.get())[1])
                assert (claim.peer, claim.refused) == ("garage", "invalid_request_error")
                assert garage._workload.num_kept("kitchen") == 0

    in_yard(scene)


def test_device_that_offers_and_never_comes_leaves_places_to_others(in_yard: In) -> None:
    async def scene(yard: Yard) -> None:
        async with (
            yard.peer("garage", capacity=100) as garage,
            yard.peer("attic", capacity=100) as attic,
            yard.device("garage", "attic") as peers,
        ):
            wanted = yard.target.wanted("remote", yard.generation())
            placing = (peers.place(wanted, "garage") for _ in range(2 * MAX_KEPT))
            placed = await asyncio.gather(*placing, return_exceptions=True)
            assert sum(isinstance(each, PeerRefusedError) for each in placed) >= 1
            assert [each._workload.num_kept("kitchen") for each in (garage, attic)] == [MAX_KEPT, MAX_KEPT]

    in_yard(scene)


def test_answer_of_a_model_that_only_peers_hold_goes_on_at_another_peer_with_the_same_tokens(in_yard: In) -> None:
    async def scene(yard: Yard) -> None:
        async with yard.peer("attic"):
            drawn: list[int] = []
            traffic = Traffic()
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(yard.peer("garage"))
                peers = await stack.enter_async_context(yard.device("garage", "attic"))
                whole = [s.token async for s in yard.remote(peers, Traffic()).extend(yard.generation())]
                executor = yard.remote(peers, traffic)
                async with contextlib.aclosing(executor.extend(yard.generation())) as steps:
                    async for step in steps:
                        drawn.append(step.token)
                        if len(drawn) == 5:
                            break
                first = traffic.peer
                assert first is not None
                peers.trip(first)
                assert executor.has_other(0)
                rest = yard.remote(peers, traffic).extend(yard.generation(drawn))
                assert [*drawn, *[s.token async for s in rest]] == whole
                assert {first, traffic.peer} == {"garage", "attic"}

    in_yard(scene)


def test_only_holder_is_asked_directly(in_yard: In) -> None:
    async def scene(yard: Yard) -> None:
        async with yard.peer("attic"), yard.device("attic") as peers:
            assert await peers.place(yard.target.wanted("remote", NOTHING), "garage") == "attic"

    in_yard(scene)

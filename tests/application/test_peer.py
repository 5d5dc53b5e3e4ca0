"""The peer's queue: devices wait in turn, and are told when there is no room. The real engine behind it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from edgeagent.application.peer import CHANGED_S, PeerService
from edgeagent.application.peer_job import Offer, Ready
from edgeagent.broker import background
from edgeagent.core.generation import Sampling
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.session import Session
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.model.store import StoredVariant
from edgeagent.wire.messages import Accepted, Done, Failed, Message, OfferedModel, Open, Turn, encode_turns
from edgeagent.wire.topics import Topics
from tests.machine import REPACKS

PATIENCE_S = 60.0
PROMPT = encode_turns((Turn(role="user", content="Say yes."),))


class Place:
    """A peer with one engine, and devices on the same broker."""

    def __init__(self, engine: LocalModel, stored: StoredVariant) -> None:
        self.engine = engine
        self.ready = Ready((), 4.51)
        self._broker = MemoryBroker()
        self._topics = Topics("test")
        self._model = OfferedModel(
            model=stored.card.id, variant=stored.variant.name, variant_sha256=stored.sha256, exact_key="",
            prefill_tok_s=100, decode_tok_s=10, context_tokens=1024, kv_bytes_per_token=0,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        offers = [Offer(self._model, lambda: contextlib.nullcontext(self.engine), ready=lambda: self.ready)]
        service = PeerService("garage", "test", self._broker.connect(), self._topics, offers)
        async with background(service.run(), "peer"):
            await asyncio.sleep(0)
            yield

    @contextlib.asynccontextmanager
    async def job(self, device: str) -> AsyncIterator[Session]:
        """A `remote` job of a device, whose prompt is sent."""
        peers = Peers(self._broker.connect(), self._topics, device)
        async with background(peers.run(), device):
            await asyncio.sleep(0)
            async with peers.session("garage") as session:
                wanted = Open(
                    job="remote", model=self._model.model, prompt_form="turns", prompt_bytes=len(PROMPT),
                    sampling=Sampling(), max_tokens=3,
                )  # fmt: skip
                session.send(wanted)
                session.send_blocks([(0, PROMPT)], bulk=False)
                yield session

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Peers]:
        """What a device hears of the peer."""
        peers = Peers(self._broker.connect(), self._topics, "onlooker")
        async with background(peers.run(), "onlooker"):
            await peers.wait_for_peer(PATIENCE_S)
            yield peers

    async def until(self, num_requests: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.engine.admission.num_requests != num_requests:  # noqa: ASYNC110  (it has no event)
                await asyncio.sleep(0.01)


async def verdict(session: Session) -> Message:
    """Accepted, Failed or Done, whichever is next."""
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance(message := await session.receive(), Accepted | Failed | Done):
            pass
    return message


@pytest.fixture
def at_peer(smollm2: StoredVariant) -> Callable[[Callable[[Place], Awaitable[None]]], None]:
    """Runs a scene at a peer where two jobs may wait, one of each device."""
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 1024, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip

    def run(scene: Callable[[Place], Awaitable[None]]) -> None:
        async def body() -> None:
            engine = LocalModel(settings, queue=2, per_user=1)
            place = Place(engine, smollm2)
            try:
                async with place.open():
                    await scene(place)
                    await place.until(0)
            finally:
                await engine.close()

        asyncio.run(body())

    return run


AtPeer = Callable[[Callable[[Place], Awaitable[None]]], None]


def test_job_beyond_the_queue_is_told_so_and_the_others_are_served(at_peer: AtPeer) -> None:
    async def scene(place: Place) -> None:
        async with contextlib.AsyncExitStack() as jobs:
            async with place.engine.lease():
                first = await jobs.enter_async_context(place.job("kitchen"))
                await place.until(2)
                again = await jobs.enter_async_context(place.job("kitchen"))
                own = await verdict(again)
                second = await jobs.enter_async_context(place.job("cellar"))
                await place.until(3)
                full = await verdict(await jobs.enter_async_context(place.job("attic")))
            assert isinstance(own, Failed)
            assert isinstance(full, Failed)
            assert (own.code, full.code) == ("rate_limit_exceeded", "overloaded")
            assert "requests of user 'kitchen' wait" in own.message
            for session in (first, second):
                assert isinstance(await verdict(session), Accepted)
                assert isinstance(await verdict(session), Done)

    at_peer(scene)


def test_device_that_leaves_while_it_waits_frees_its_place(at_peer: AtPeer) -> None:
    async def scene(place: Place) -> None:
        async with place.engine.lease():
            async with place.job("kitchen"):
                await place.until(2)
            await place.until(1)

    at_peer(scene)


def test_peer_tells_which_layers_it_has_ready_now(at_peer: AtPeer) -> None:
    async def scene(place: Place) -> None:
        async with place.watching() as peers:
            (model,) = peers.views()[0].status.models
            assert (model.loaded, model.making_s) == ((), 4.5)
            place.ready = Ready(((8, 30),), 2.0)
            async with place.job("kitchen") as session:
                assert isinstance(await verdict(session), Accepted)
                async with asyncio.timeout(PATIENCE_S):
                    while not (model := peers.views()[0].status.models[0]).loaded:  # noqa: ASYNC110  (it has no event)
                        await asyncio.sleep(0.01)
            assert (model.loaded, model.making_s) == (((8, 30),), 2.0)

    at_peer(scene)


def test_queue_is_jobs_alone_and_the_last_change_of_many_is_told(
    at_peer: AtPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeagent.application.peer.ANNOUNCE_S", 3600.0)  # but for changes, nothing is told

    async def scene(place: Place) -> None:
        async with place.watching() as peers:

            async def until(queue: int) -> None:
                async with asyncio.timeout(PATIENCE_S):
                    while peers.views()[0].status.queue != queue:  # noqa: ASYNC110  (it has no event)
                        await asyncio.sleep(0.01)

            told = [peers.views()[0].status.queue]
            await peers.measure_link("garage")
            told.append(peers.views()[0].status.queue)
            async with place.engine.lease(), place.job("kitchen"):
                await until(1)
            await until(0)
            for _ in range(3):  # each is over before the one before was told
                async with place.job("kitchen") as session:
                    while not isinstance(await verdict(session), Done):
                        pass
            await asyncio.sleep(2 * CHANGED_S)
            await until(0)
            assert told == [0, 0]

    at_peer(scene)

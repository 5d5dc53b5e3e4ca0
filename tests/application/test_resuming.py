"""A job goes on over a connection that breaks and comes back: a real broker, a real engine, a link that is reset."""

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Awaitable, Callable

import pytest

from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.errors import PeerLostError
from edgeagent.core.generation import Generation, Sampling
from edgeagent.execution.executors import PeerModel, RemoteExecutor, Traffic
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.model.store import StoredVariant
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.topics import Topics
from tests.conftest import Mosquitto
from tests.machine import REPACKS
from tools.chaos_link import Shape
from tools.chaos_proxy import ChaosProxy

PATIENCE_S = 60.0
NUM_TOKENS = 96
TURNS = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]


class Line:
    """A peer, and a device whose way to the broker can be cut."""

    def __init__(self, peers: Peers, target: PeerModel, proxy: ChaosProxy, broker: Mosquitto) -> None:
        self.peers, self.proxy, self.broker = peers, proxy, broker
        self._target = target

    async def tokens(self, at: int, strike: Callable[[], None]) -> list[int]:
        """Those of one answer, during which `strike` is done once, beside it, when token `at` is here."""
        drawn: list[int] = []
        generation = Generation("g", self._target.variant_sha256, (), Sampling(temperature=0.8, seed=5), NUM_TOKENS)
        executor = RemoteExecutor(self.peers, self._target, Traffic(), TURNS)
        async with contextlib.aclosing(executor.extend(generation)) as steps:
            async for step in steps:
                drawn.append(step.token)
                if len(drawn) == at:
                    strike()
        return drawn


OnLine = Callable[[Callable[[Line], Awaitable[None]]], None]


@pytest.fixture
def on_line(smollm2: StoredVariant, mosquitto: Mosquitto) -> OnLine:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 1024, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip
    model = OfferedModel(
        model=smollm2.card.id, variant=smollm2.variant.name, variant_sha256=smollm2.sha256, exact_key="",
        prefill_tok_s=100, decode_tok_s=10, context_tokens=1024, kv_bytes_per_token=0,
    )  # fmt: skip

    async def body(scene: Callable[[Line], Awaitable[None]]) -> None:
        topics, engine = Topics(f"test/{secrets.token_hex(4)}"), LocalModel(settings)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(engine.close)
            proxy = await stack.enter_async_context(ChaosProxy("127.0.0.1", mosquitto.port, Shape(100, 100)))
            near, far = [
                await MqttTransport.connect(parse_address(url), f"{name}-{topics.prefix[5:]}")
                for name, url in (("near", f"mqtt://127.0.0.1:{proxy.port}"), ("far", mosquitto.url))
            ]
            for transport in (near, far):
                stack.push_async_callback(transport.close)
            offer = Offer(model, lambda: contextlib.nullcontext(engine))
            await stack.enter_async_context(background(PeerService("garage", "1", far, topics, [offer]).run(), "peer"))
            peers = Peers(near, topics, "kitchen")
            await stack.enter_async_context(background(peers.run(), "device"))
            assert await peers.wait_for_peer(PATIENCE_S)
            await scene(Line(peers, PeerModel("garage", smollm2.card.id, smollm2.sha256, ""), proxy, mosquitto))

    return lambda scene: asyncio.run(body(scene))


def test_answer_goes_on_over_a_connection_that_was_reset(on_line: OnLine) -> None:
    async def scene(line: Line) -> None:
        whole = await line.tokens(0, lambda: None)
        for at in (1, 20, 70):
            assert await line.tokens(at, line.proxy.reset) == whole

    on_line(scene)


def test_answer_goes_on_when_the_broker_is_killed_and_started_again(on_line: OnLine) -> None:
    async def scene(line: Line) -> None:
        whole = await line.tokens(0, lambda: None)

        def restart() -> None:
            line.broker.kill()
            threading.Thread(target=line.broker.start).start()

        for at in (1, 60):
            assert await line.tokens(at, restart) == whole

    on_line(scene)


def test_answer_ends_with_its_lease_when_the_broker_stays_away(on_line: OnLine) -> None:
    async def scene(line: Line) -> None:
        with pytest.raises(PeerLostError, match="said nothing"):
            await line.tokens(5, line.broker.kill)
        line.broker.start()
        async with asyncio.timeout(PATIENCE_S):
            while not line.peers.views():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    on_line(scene)

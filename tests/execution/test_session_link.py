"""A session's blocks over a real broker and a bad link: whole, resumed after a loss, ended at once."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

from edgeagent.broker import background
from edgeagent.core.errors import PeerLostError
from edgeagent.execution.session import Session
from edgeagent.execution.transport.base import Subscription
from edgeagent.execution.transport.mqtt import MqttTransport, parse_address
from edgeagent.wire.frames import SESSION_BYTES, PlainChannel
from tests.conftest import Mosquitto
from tools.chaos_link import Shape
from tools.chaos_proxy import ChaosProxy

BLOCK_BYTES = 300_000
NUM_BLOCKS = 8
PATIENCE_S = 60.0
LINK = Shape(20, 20, rtt_s=0.03)


class Ends:
    """Both ends of one session. `near` reaches the broker over the link."""

    def __init__(self, near: MqttTransport, far: MqttTransport, proxy: ChaosProxy) -> None:
        channel = PlainChannel(secrets.token_bytes(SESSION_BYTES))
        self.proxy = proxy
        self.near = Session(channel, lambda data, bulk: near.publish("link/far", data, bulk=bulk))
        topics = {False: "link/near", True: "link/near/bulk"}
        self.far = Session(channel, lambda data, bulk: far.publish(topics[bulk], data, bulk=bulk))
        self._subscriptions = (
            (near.subscribe("link/near"), self.near),
            (near.subscribe("link/near/bulk", bulk=True), self.near),
            (far.subscribe("link/far"), self.far),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for subscription, session in self._subscriptions:
                await stack.enter_async_context(background(_feed(subscription, session), "feed"))
            for session in (self.near, self.far):
                await stack.enter_async_context(session.kept_alive())
            yield

    async def until_here(self, num_blocks: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.near.receiver.blocks) < num_blocks:  # noqa: ASYNC110  (a reader would have a lease)
                await asyncio.sleep(0.01)


async def _feed(subscription: Subscription, session: Session) -> None:
    while True:
        with contextlib.suppress(PeerLostError):
            _, payload = await subscription.get()
            session.feed(payload)


@contextlib.asynccontextmanager
async def sending(broker: Mosquitto, blocks: dict[int, bytes]) -> AsyncIterator[Ends]:
    """The far end sends these blocks."""
    async with ChaosProxy("127.0.0.1", broker.port, LINK) as proxy:
        near = await MqttTransport.connect(parse_address(f"mqtt://127.0.0.1:{proxy.port}"), "link-near")
        far = await MqttTransport.connect(parse_address(broker.url), "link-far")
        try:
            ends = Ends(near, far, proxy)
            await asyncio.sleep(0.3)  # for the subscriptions
            ends.near.expect({index: len(block) for index, block in blocks.items()})
            async with ends.running():
                ends.far.send_blocks(blocks.items(), bulk=True)
                yield ends
        finally:
            await near.close()
            await far.close()


def made() -> dict[int, bytes]:
    return {index: secrets.token_bytes(BLOCK_BYTES) for index in range(NUM_BLOCKS)}


def test_blocks_go_on_where_they_were_after_the_link_was_reset(mosquitto: Mosquitto) -> None:
    async def scene() -> None:
        blocks = made()
        async with sending(mosquitto, blocks) as ends:
            await ends.until_here(2)
            ends.proxy.reset()
            await ends.until_here(NUM_BLOCKS)
            assert ends.near.receiver.blocks == blocks
            await ends.far.until_sent(PATIENCE_S)
            # Not from the beginning: at most what was on its way is sent again.
            assert ends.far.up_bytes < 1.5 * NUM_BLOCKS * BLOCK_BYTES

    asyncio.run(scene())


def test_sender_that_is_told_of_blocks_made_elsewhere_ends_soon(mosquitto: Mosquitto) -> None:
    async def scene() -> None:
        async with sending(mosquitto, made()) as ends:
            await ends.until_here(1)
            ends.far.skip_blocks_before(NUM_BLOCKS)
            await ends.far.until_sent(PATIENCE_S)
            assert ends.far.up_bytes < 0.7 * NUM_BLOCKS * BLOCK_BYTES

    asyncio.run(scene())

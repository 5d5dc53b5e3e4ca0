"""A sealed session goes on after a connection was away: what is said again is sealed anew, and no replay."""

import asyncio
import time

from edgeagent.execution.peers import until_accepted
from edgeagent.execution.session import BlockArrived
from edgeagent.execution.transport.memory import MemoryTransport
from edgeagent.execution.trust.sealed import SealedPeer
from edgeagent.wire.messages import Open
from tests.execution.trust.test_sealed import Town, play, sealed_device, town

__all__ = ["town"]  # a fixture
NUM_BYTES = 2**20


def test_session_goes_on_where_it_was_when_the_connection_is_back(town: Town) -> None:
    way = SealedPeer(town.member("garage", "peer"), time.time)

    async def scene() -> None:
        device = sealed_device(town.member("kitchen", "device"))
        async with town.peer(way), town.device(device) as peers, peers.session("garage") as session:
            near = peers._transport
            assert isinstance(near, MemoryTransport)
            near.cut()
            session.expect({0: NUM_BYTES})
            session.send(Open(job="probe", probe_bytes=NUM_BYTES))  # goes when the connection is back
            await asyncio.sleep(0.1)
            near.mend()
            await until_accepted(session)
            while session.receiver.num_arrived_bytes < NUM_BYTES / 8:  # noqa: ASYNC110
                await asyncio.sleep(0)
            near.cut()
            assert not session.receiver.blocks
            await asyncio.sleep(0.3)
            near.mend()
            while not isinstance(await session.receive(), BlockArrived):
                pass
            assert len(session.receiver.blocks[0]) == NUM_BYTES

    play(scene)

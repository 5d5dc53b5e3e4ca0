"""Sessions: what ends them, whenever it comes."""

import asyncio

import pytest

from edgeagent.execution.session import Session
from edgeagent.wire.frames import SESSION_BYTES, Kind, PlainChannel
from edgeagent.wire.messages import Progress, encode_message


@pytest.mark.parametrize("num_turns", range(8))
def test_reader_ends_when_it_is_cancelled_just_as_a_message_arrives(num_turns: int) -> None:
    """`num_turns` turns of the loop lie between the two. (asyncio.wait_for of Python 3.11 loses one of these races.)"""

    async def read_for_ever(session: Session) -> None:
        while True:
            await session.receive()

    async def scenario() -> None:
        channel = PlainChannel(bytes(SESSION_BYTES))
        session = Session(channel, lambda _data, _bulk: None)
        reader = asyncio.create_task(read_for_ever(session))
        await asyncio.sleep(0.01)
        session.feed(channel.seal(Kind.MESSAGE, encode_message(Progress(blocks=1))))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        reader.cancel()
        done, _ = await asyncio.wait({reader}, timeout=0.5)
        assert done
        assert reader.cancelled()

    asyncio.run(scenario())

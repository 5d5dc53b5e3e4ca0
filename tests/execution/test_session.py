"""Sessions: what ends them, whenever it comes."""

import asyncio

import pytest

from edgeagent.core.errors import WireError
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.execution.session import MAX_INBOX, BlockArrived, Session
from edgeagent.wire.frames import SESSION_BYTES, Kind, PlainChannel, cut_fragments, encode_fragment
from edgeagent.wire.messages import MAX_BLOCKS, Message, Open, Progress, Step, encode_message


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


class Served:
    """A session at a peer, and what a device says in it. Nothing reads the inbox."""

    def __init__(self) -> None:
        self.channel = PlainChannel(bytes(SESSION_BYTES))
        self.session = Session(self.channel, lambda _data, _bulk: None, serves=True)

    def say(self, message: Message) -> None:
        self.session.feed(self.channel.seal(Kind.MESSAGE, encode_message(message)))

    def send_block(self, index: int, block: bytes) -> None:
        for number, fragment in enumerate(cut_fragments(index, block)):
            self.session.feed(self.channel.seal(Kind.FRAGMENT, encode_fragment(number, fragment)))


def split_job(num_tokens: int, chunk_tokens: int = 64) -> Open:
    stage = StageDescriptor(
        model="m", variant_sha256="0" * 64, k=1, layers=2, width=4, hidden="f32", kv_type="f16", kv_planes=(),
        flash_attention=True, extra_buffers=True, chunk_tokens=chunk_tokens, threads=0, engine="e", system="s",
    )  # fmt: skip
    return Open(job="split-decode", model="m", stage=stage, prompt_tokens=num_tokens, max_tokens=8)


def test_hidden_states_are_taken_only_when_the_peer_has_checked_whose_they_are() -> None:
    async def scenario() -> None:
        served, job = Served(), split_job(1)
        served.say(job)
        assert await served.session.receive() == job
        served.send_block(0, bytes(16))
        with pytest.raises(WireError, match="not expected"):
            await served.session.receive()
        served.say(Step(block=1, position=1))
        with pytest.raises(WireError, match="no model is split"):
            await served.session.receive()
        served.session.expect_split(job)
        served.send_block(0, bytes(16))
        assert await served.session.receive() == BlockArrived(0)

    asyncio.run(scenario())


def test_job_of_more_blocks_than_a_session_may_owe_is_refused() -> None:
    async def scenario() -> None:
        served, most = Served(), encode_message(split_job(MAX_BLOCKS, chunk_tokens=1))
        job = most.replace(f"{MAX_BLOCKS}".encode(), f"{MAX_BLOCKS + 1}".encode())
        served.session.feed(served.channel.seal(Kind.MESSAGE, job))
        with pytest.raises(WireError, match=f"{MAX_BLOCKS} blocks at most"):
            await served.session.receive()

    asyncio.run(scenario())


def test_errors_that_nobody_reads_do_not_pile_up() -> None:
    async def scenario() -> None:
        served = Served()
        for _ in range(2 * MAX_INBOX):
            served.say(Step(block=0, position=0))
        assert served.session._inbox.qsize() <= MAX_INBOX + 1

    asyncio.run(scenario())

"""Plan `remote` with a peer that does not keep to what it should."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from edgeagent.broker import background
from edgeagent.core.errors import PeerError, PeerRefusedError
from edgeagent.core.generation import NO_ID, Generation, Sampling
from edgeagent.execution.executors import PeerModel, RemoteExecutor, Traffic
from edgeagent.execution.peers import Peers
from edgeagent.execution.session import Session
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.wire.frames import PlainChannel, read_label
from edgeagent.wire.messages import MAX_DRAWN, Accepted, Done, Message, OfferedModel, PeerStatus, Token
from edgeagent.wire.topics import Topics

TOPICS = Topics("test")
TOKENS = tuple(Token(position=i, token=i, piece="61") for i in range(2))


MODEL = OfferedModel(
    model="m", variant="Q4", variant_sha256="0" * 64, exact_key="", prefill_tok_s=1, decode_tok_s=1,
    context_tokens=65_536, kv_bytes_per_token=0,
)  # fmt: skip


@contextlib.asynccontextmanager
async def saying(*said: Message) -> AsyncIterator[Peers]:
    """A peer that says just this to whoever opens a job."""
    broker = MemoryBroker()
    there, here = broker.connect(), broker.connect()
    status = PeerStatus(id="garage", state="online", models=(MODEL,)).model_dump_json(exclude_none=True).encode()
    there.publish(TOPICS.peer_status("garage"), status, retain=True)
    arriving = there.subscribe(TOPICS.to_peer_from_all("garage"))

    async def answer() -> None:
        _, first = await arriving.get()
        channel = PlainChannel(read_label(first).session)
        session = Session(channel, lambda data, bulk: there.publish(TOPICS.to_device("kitchen"), data, bulk=bulk))
        for message in said:
            session.send(message)

    peers = Peers(here, TOPICS, "kitchen")
    async with background(peers.run(), "device"), background(answer(), "garage"):
        assert await peers.wait_for_peer(10)
        yield peers


def tokens(*said: Message, turns: list[dict[str, str]] | None = None, drawn: tuple[int, ...] = ()) -> list[int]:
    async def scene() -> list[int]:
        async with saying(Accepted(), *said) as peers:
            executor = RemoteExecutor(peers, PeerModel("garage", "m", "0" * 64, ""), Traffic(), turns)
            generation = Generation("g", "0" * 64, (1, 2), Sampling(), 3 + len(drawn), drawn)
            return [step.token async for step in executor.extend(generation)]

    return asyncio.run(scene())


@pytest.mark.parametrize("reason", ["length", "stop"])
def test_answer_that_a_peer_says_is_over_too_early_is_not_taken_for_whole(reason: str) -> None:
    with pytest.raises(PeerError, match="before its limit"):
        tokens(*TOKENS, Done.model_validate({"reason": reason}))


@pytest.mark.parametrize("said", [TOKENS[1:], (*TOKENS, TOKENS[1])], ids=["one-lacks", "one-again"])
def test_token_out_of_its_place_is_the_peers_fault(said: tuple[Token, ...]) -> None:
    """Others may go on then."""
    with pytest.raises(PeerError, match="was due"):
        tokens(*said)


def test_end_of_another_model_is_the_peers_to_tell() -> None:
    turns = [{"role": "user", "content": "Hello"}]
    assert tokens(*TOKENS, Done(reason="length"), turns=turns) == [0, 1]


def test_token_without_an_id_of_a_variant_that_others_hold_is_not_taken() -> None:
    with pytest.raises(PeerError, match="without an id"):
        tokens(Token(position=0, token=NO_ID, piece="61"))


def test_peer_that_begins_anew_behind_what_is_drawn_is_left() -> None:
    assert tokens(Token(position=2, token=9, piece="61", is_end=True), drawn=(7, 8)) == [9]
    with pytest.raises(PeerError, match="token 0 came where token 2 was due"):
        tokens(*TOKENS, drawn=(7, 8))


def test_answer_that_is_longer_than_a_peer_is_told_is_refused_here() -> None:
    with pytest.raises(PeerRefusedError, match=f"behind {MAX_DRAWN} at most"):
        tokens(drawn=(7,) * (MAX_DRAWN + 1))


def test_peer_cannot_go_on_behind_more_tokens_than_it_can_be_told_of() -> None:
    async def scene() -> None:
        async with saying() as peers:
            executor = RemoteExecutor(peers, PeerModel("attic", "m", "0" * 64, ""), Traffic())
            assert executor.has_other(MAX_DRAWN)
            assert not executor.has_other(MAX_DRAWN + 1)

    asyncio.run(scene())

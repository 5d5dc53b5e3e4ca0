"""100,000 mutated frames of every kind: refused with a ProtocolError each, and memory does not grow."""

import random
import resource
from collections.abc import Callable

import pytest

from edgeagent.core.errors import ProtocolError, WireError
from edgeagent.core.stage_descriptor import StageDescriptor
from edgeagent.wire.announcing import announce, read_announcement
from edgeagent.wire.blocks import BlockReceiver
from edgeagent.wire.frames import (
    Frame,
    Kind,
    cut_fragments,
    decode_fragment,
    decode_frame,
    encode_fragment,
    encode_frame,
)
from edgeagent.wire.messages import (
    Accepted,
    Ack,
    Done,
    Failed,
    KeepAlive,
    Message,
    Open,
    PeerStatus,
    Progress,
    Resume,
    Step,
    Stop,
    Token,
    Turn,
    decode_message,
    decode_status,
    decode_tokens,
    decode_turns,
    encode_message,
    encode_tokens,
    encode_turns,
)
from edgeagent.wire.pairing import Guest, Host, PairingCode
from tests.core.test_stages import SAME
from tests.wire.parties import DEVICE, KITCHEN, NOW, PEER, answerer, drawn, opened, opening

GROWTH_BYTES = 5e6
CODE = PairingCode(bytes(16))


def takers() -> list[tuple[bytes, Callable[[bytes], object]]]:
    """A good frame of each kind, and who would take it."""
    ends, started, peer, host = opened(), opening(), answerer(), Host(CODE, 0)
    answer = answerer().answer(started.frame, "kitchen", NOW).frame
    guest = Guest(CODE, KITCHEN, "kitchen", drawn(1))
    return [
        (started.frame, lambda data: peer.answer(data, "kitchen", NOW)),
        (answer, lambda data: opening().finish(data, NOW)),
        (ends.device.seal(Kind.MESSAGE, bytes(300)), ends.peer.open),
        (announce(PEER, b"{}", 1), lambda data: read_announcement(data, DEVICE, "garage", NOW)),
        (guest.frame, lambda data: host.answer(data, 0, lambda asked, identity: b"bundle")),
        (Host(CODE, 0).answer(guest.frame, 0, lambda asked, identity: b"bundle"), guest.finish),
    ]


def inner_takers() -> list[tuple[bytes, Callable[[bytes], object]]]:
    """The same of what travels inside frames: messages, fragments of blocks, prompts."""
    stage = StageDescriptor.model_validate(SAME)
    job = Open(number=0, job="split-decode", model="m", stage=stage, prompt_tokens=300, drawn=(1, 2), max_tokens=5)
    messages: list[Message] = [
        job,
        Step(number=1, block=5, position=300, guesses=(7, 8)),
        Progress(number=2, blocks=1),
        Ack(base=3, bitmap="ff"),
        Stop(number=3),
        KeepAlive(ping=1, seen=4),
        Resume(seen=4),
        Accepted(number=0, stage=stage),
        Token(number=1, position=300, token=5, piece="35"),
        Done(number=9, reason="stop"),
        Failed(code="busy", message="later"),
    ]
    fragments = [encode_fragment(i, each) for i, each in enumerate(cut_fragments(0, bytes(5000), 1024))]
    others: list[tuple[bytes, Callable[[bytes], object]]] = [
        (fragments[1], lambda data: BlockReceiver({0: 5000}).take(*decode_fragment(data))),
        (encode_frame(Frame(Kind.MESSAGE, bytes(16), bytes(90))), decode_frame),
        (encode_tokens(tuple(range(0, 50_000, 997))), decode_tokens),
        (encode_turns((Turn(role="user", content="hello"),)), decode_turns),
        (PeerStatus(id="attic", state="online", models=(), queue=3).model_dump_json().encode(), decode_status),
    ]
    return [(encode_message(each), understood) for each in messages] + others


def understood(data: bytes) -> None:
    message = decode_message(data)
    if isinstance(message, Open):
        BlockReceiver(message.block_sizes())


def mutated(good: bytes, draw: random.Random) -> bytes:
    """Another frame: bytes changed, cut out, repeated or put in at one to four places."""
    data = bytearray(good)
    while bytes(data) == good:
        for _ in range(draw.randint(1, 4)):
            place, length = draw.randrange(len(data) + 1), draw.choice([0, 1, 2, 8, 64])
            data[place : place + length] = draw.randbytes(draw.choice([0, length, 1]))
    return bytes(data)


SOME_AND_ALL = pytest.mark.parametrize("num_frames", [2_000, pytest.param(100_000, marks=pytest.mark.long)])


@SOME_AND_ALL
def test_mutated_frames_are_refused_and_leave_nothing_behind(num_frames: int) -> None:
    draw, kinds = random.Random(1), takers()
    peak_before = 0
    for number in range(num_frames):
        good, take = kinds[number % len(kinds)]
        with pytest.raises(ProtocolError):
            take(mutated(good, draw))
        if number == num_frames // 10:  # caches of the libraries are filled
            peak_before = peak_rss_bytes()
    assert peak_rss_bytes() - peak_before < GROWTH_BYTES


@SOME_AND_ALL
def test_mutated_words_of_an_authentic_peer_are_understood_or_refused_and_leave_nothing_behind(num_frames: int) -> None:
    draw, kinds = random.Random(2), inner_takers()
    num_refused = peak_before = 0
    for number in range(num_frames):
        good, take = kinds[number % len(kinds)]
        try:
            take(mutated(good, draw))
        except WireError:
            num_refused += 1
        if number == num_frames // 10:
            peak_before = peak_rss_bytes()
    assert num_refused > num_frames / 2
    assert peak_rss_bytes() - peak_before < GROWTH_BYTES


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

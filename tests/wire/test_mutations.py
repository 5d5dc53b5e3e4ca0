"""100,000 mutated frames of every kind: refused with a ProtocolError each, and memory does not grow."""

import random
import resource
from collections.abc import Callable

import pytest

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.announcing import announce, read_announcement
from edgeagent.wire.frames import Kind
from edgeagent.wire.pairing import Guest, Host, PairingCode
from tests.wire.parties import DEVICE, KITCHEN, NOW, PEER, answerer, drawn, opened, opening

NUM_FRAMES = 100_000
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


def mutated(good: bytes, draw: random.Random) -> bytes:
    """Another frame: bytes changed, cut out, repeated or put in at one to four places."""
    data = bytearray(good)
    while bytes(data) == good:
        for _ in range(draw.randint(1, 4)):
            place, length = draw.randrange(len(data) + 1), draw.choice([0, 1, 2, 8, 64])
            data[place : place + length] = draw.randbytes(draw.choice([0, length, 1]))
    return bytes(data)


@pytest.mark.long
def test_mutated_frames_are_refused_and_leave_nothing_behind() -> None:
    draw, kinds = random.Random(1), takers()
    peak_before = 0
    for number in range(NUM_FRAMES):
        good, take = kinds[number % len(kinds)]
        with pytest.raises(ProtocolError):
            take(mutated(good, draw))
        if number == NUM_FRAMES // 10:  # caches of the libraries are filled
            peak_before = peak_rss_bytes()
    assert peak_rss_bytes() - peak_before < GROWTH_BYTES


def peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

"""Packets between daemon and worker: whatever is packed comes out the same, and nothing else comes out."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.channel import (
    FILES,
    HOLD_S,
    MAX_PACKET_BYTES,
    Channel,
    ChannelClosedError,
    Files,
    join,
    pack,
    parted,
    unpack,
)


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = set(Path("/proc/self/fd").iterdir())
    yield
    assert len(set(Path("/proc/self/fd").iterdir()) - before) == 0


@given(st.lists(st.binary(max_size=300), max_size=3), st.sampled_from([0, 1, MAX_PACKET_BYTES]), st.booleans())
def test_message_and_bulk_come_out_as_they_went_in(parts: list[bytes], padding: int, is_long_text: bool) -> None:
    message = {"id": 7, "text": "x" * (2 * MAX_PACKET_BYTES if is_long_text else 3)}
    bulk = [*parts, bytes(padding)]
    assert unpack(*pack(message, bulk)) == (message, b"".join(bulk))


@pytest.mark.parametrize("length", [1, 2 * MAX_PACKET_BYTES])
def test_files_are_handed_over_unread(length: int) -> None:
    with Path("/proc/self/exe").open("rb") as file:
        message, bulk = unpack(*pack({"text": "x" * length}, Files([file.fileno(), file.fileno()])))
        first, second = message.pop(FILES)
        assert os.fstat(first).st_ino == os.fstat(second).st_ino == os.fstat(file.fileno()).st_ino
    assert (message, bulk) == ({"text": "x" * length}, b"")
    os.close(first)
    os.close(second)


@given(st.data())
def test_cut_packet_is_refused_or_a_whole_message_with_less_bulk(data: st.DataObject) -> None:
    packet, _ = pack({"id": 1, "op": "x"}, [b"abc"])
    cut = packet[: data.draw(st.integers(0, len(packet) - 1))]
    with contextlib.suppress(ChannelClosedError, ValueError):
        message, bulk = unpack(cut, [])
        assert message == {"id": 1, "op": "x"}
        assert b"abc".startswith(bulk)


def test_descriptors_that_the_message_does_not_speak_of_are_closed() -> None:
    packet, _ = pack({"id": 1}, Files([]))
    with pytest.raises(ChannelClosedError, match="1 files instead of 0"):
        unpack(packet, [os.open("/proc/self/exe", os.O_RDONLY)])


@given(st.lists(st.tuples(st.integers(), st.binary(max_size=20)), min_size=1, max_size=9))
def test_joined_messages_part_as_they_were(packets: list[tuple[int, bytes]]) -> None:
    messages = [({"id": number}, bulk) for number, bulk in packets]
    message, bulk = join(messages)
    assert parted(*unpack(*pack(message, [bulk]))) == messages
    with pytest.raises(ChannelClosedError, match="bytes of bulk"):
        parted(message, bulk + b"x")


@given(st.lists(st.floats(0.0005, 0.1), min_size=1, max_size=40))
def test_held_messages_go_in_order_and_none_waits_longer_than_the_bound_while_steps_last_alike(
    steps_s: list[float],
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    channel, now_s, held_since, received = Channel(ours), 100.0, list[float](), list[int]()
    channel.flush_when_due(now_s)
    for number, step_s in enumerate(steps_s):
        now_s += step_s
        channel.hold({"id": number})
        held_since.append(now_s)
        channel.flush_when_due(now_s)
        if came := _received(theirs):
            received += came
            held_since.clear()
        assert not held_since or now_s + step_s <= held_since[0] + HOLD_S
    channel.send({"id": len(steps_s)})
    received += _received(theirs)
    assert received == list(range(len(steps_s) + 1))
    ours.close()
    theirs.close()


def _received(sock: socket.socket) -> list[int]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packed = unpack(sock.recv(MAX_PACKET_BYTES), [])
            found += [message["id"] for message, _ in parted(*packed)]
    return found

"""Sealed frames: read once, by the other end, unchanged; and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.frames import FRAGMENT_DATA_BYTES, MAX_FRAME_BYTES, Kind, Lane, cut_fragments, encode_fragment
from edgeagent.wire.sealing import (
    HEADER_BYTES,
    MAX_FRAMES,
    MAX_SEALED_PAYLOAD_BYTES,
    TAG_BYTES,
    WINDOW_FRAMES,
    Aead,
    Channel,
    DirectionKey,
    ReplayWindow,
    aead_for,
    read_header,
)

SESSION = bytes(range(16))
UP, DOWN = DirectionKey(bytes([1] * 32), bytes([2] * 12)), DirectionKey(bytes([3] * 32), bytes([4] * 12))


def ends(aead: Aead = Aead.CHACHA20_POLY1305) -> tuple[Channel, Channel]:
    return Channel(SESSION, aead, UP, DOWN), Channel(SESSION, aead, DOWN, UP)


@given(st.sampled_from(Aead), st.sampled_from(Kind), st.sampled_from(Lane), st.binary(max_size=2000))
def test_sealed_frame_is_opened_by_the_other_end(aead: Aead, kind: Kind, lane: Lane, payload: bytes) -> None:
    ours, theirs = ends(aead)
    sealed = ours.seal(kind, payload, lane)
    assert len(payload) < 8 or payload not in sealed[HEADER_BYTES:]
    assert len(sealed) == HEADER_BYTES + len(payload) + TAG_BYTES
    opened = theirs.open(sealed)
    assert (opened.kind, opened.session, opened.payload) == (kind, SESSION, payload)


@pytest.mark.parametrize("aead", list(Aead))
def test_every_flipped_bit_is_refused_and_the_frame_is_still_read(aead: Aead) -> None:
    ours, theirs = ends(aead)
    sealed = ours.seal(Kind.MESSAGE, b"hello")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        refuse(theirs, bytes(changed))
    assert theirs.open(sealed).payload == b"hello"


def test_frame_cut_or_lengthened_is_refused() -> None:
    ours, theirs = ends()
    sealed = ours.seal(Kind.MESSAGE, b"hello")
    for length in range(len(sealed)):
        refuse(theirs, sealed[:length])
    refuse(theirs, sealed + b"\0")


def test_frame_reflected_to_its_sender_is_refused() -> None:
    ours, _ = ends()
    refuse(ours, ours.seal(Kind.MESSAGE, b"hello"))


def test_frame_of_another_lane_session_or_kind_is_refused() -> None:
    ours, theirs = ends()
    sealed = ours.seal(Kind.MESSAGE, b"hello")
    for offset, value in ((3, 2), (3, 3), (3, 9), (4, 255), (23, 1), (23, 2), (27, 1)):
        refuse(theirs, sealed[:offset] + bytes([value]) + sealed[offset + 1 :])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    _, theirs = ends()
    refuse(theirs, data)
    if len(data) < HEADER_BYTES:
        with pytest.raises(ProtocolError):
            read_header(data)


@given(st.permutations(range(40)), st.lists(st.integers(0, 39), max_size=40))
def test_frames_in_any_order_and_repeated_are_read_once_each(order: list[int], again: list[int]) -> None:
    ours, theirs = ends()
    sealed = [ours.seal(Kind.MESSAGE, b"%d" % number, Lane(number % 2)) for number in range(40)]
    arrived: list[bytes] = []
    for number in [*order, *again]:
        try:
            arrived.append(theirs.open(sealed[number]).payload)
        except ProtocolError:
            assert sealed[number] is not None
    assert arrived == [b"%d" % number for number in order]


def test_lane_that_is_ahead_does_not_make_the_other_old() -> None:
    ours, theirs = ends()
    slow = ours.seal(Kind.FRAGMENT, b"block", Lane.BLOCKS)
    for _ in range(2 * WINDOW_FRAMES):
        theirs.open(ours.seal(Kind.MESSAGE, b""))
    assert theirs.open(slow).payload == b"block"


def test_frame_older_than_the_window_is_refused_and_the_oldest_inside_is_read() -> None:
    ours, theirs = ends()
    sealed = [ours.seal(Kind.MESSAGE, b"") for _ in range(WINDOW_FRAMES + 1)]
    theirs.open(sealed[-1])
    refuse(theirs, sealed[0])
    theirs.open(sealed[1])


@given(st.lists(st.integers(0, 3 * WINDOW_FRAMES), max_size=200))
def test_window_takes_what_a_set_of_all_counters_would_and_nothing_older_than_it_is_wide(counters: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for counter in counters:
        is_fresh = counter not in seen and counter > max(seen, default=-1) - WINDOW_FRAMES
        assert window.is_fresh(counter) == is_fresh
        if is_fresh:
            window.note(counter)
            seen.add(counter)


def test_session_ends_before_its_counters_do() -> None:
    ours, theirs = ends()
    ours._counters[Lane.MESSAGES] = MAX_FRAMES - 1
    last = ours.seal(Kind.MESSAGE, b"last")
    assert theirs.open(last).payload == b"last"
    with pytest.raises(ProtocolError, match="open another"):
        ours.seal(Kind.MESSAGE, b"")
    assert ours.seal(Kind.FRAGMENT, b"", Lane.BLOCKS)


def test_counter_over_the_limit_is_refused_though_it_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = ends()
    sealed = [ours.seal(Kind.MESSAGE, b"") for _ in range(6)]
    monkeypatch.setattr("edgeagent.wire.sealing.MAX_FRAMES", 5)
    refuse(theirs, sealed[5])
    theirs.open(sealed[4])


def test_session_that_was_lied_to_too_often_takes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeagent.wire.sealing.MAX_FORGERIES", 3)
    ours, theirs = ends()
    sealed = ours.seal(Kind.MESSAGE, b"hello")
    for _ in range(3):
        refuse(theirs, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert not theirs.has_received
    refuse(theirs, sealed)


def test_largest_fragment_fits_and_more_is_refused_when_sent() -> None:
    ours, theirs = ends()
    fragment = encode_fragment(9, cut_fragments(3, bytes(FRAGMENT_DATA_BYTES + 1))[0])
    assert theirs.open(ours.seal(Kind.FRAGMENT, fragment, Lane.BLOCKS)).payload == fragment
    assert len(ours.seal(Kind.MESSAGE, bytes(MAX_SEALED_PAYLOAD_BYTES))) == MAX_FRAME_BYTES
    with pytest.raises(ProtocolError, match="send a block"):
        ours.seal(Kind.MESSAGE, bytes(MAX_SEALED_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"fpu", "aes", "pclmulqdq"}, Aead.AES_256_GCM),
        ({"asimd", "aes", "pmull"}, Aead.AES_256_GCM),
        ({"fp", "asimd", "crc32"}, Aead.CHACHA20_POLY1305),  # a Raspberry Pi 4 has no AES instructions
        ({"aes"}, Aead.CHACHA20_POLY1305),
    ],
)
def test_aes_is_taken_where_the_processor_has_it(flags: set[str], expected: Aead) -> None:
    assert aead_for(flags) is expected


def refuse(end: Channel, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        end.open(data)

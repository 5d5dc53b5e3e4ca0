import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import WireError
from edgeagent.wire.frames import (
    FRAGMENT_DATA_BYTES,
    GRAIN_BYTES,
    MAX_BLOCK_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Fragment,
    Frame,
    Kind,
    cut_fragments,
    decode_fragment,
    decode_frame,
    encode_fragment,
    encode_frame,
)

SESSION = bytes(range(16))


@given(st.sampled_from(Kind), st.binary(max_size=2000))
def test_frame_round_trips(kind: Kind, payload: bytes) -> None:
    frame = Frame(kind, SESSION, payload)
    assert decode_frame(encode_frame(frame)) == frame


def test_frame_cut_anywhere_is_refused() -> None:
    whole = encode_frame(Frame(Kind.MESSAGE, SESSION, b"hello"))
    for length in range(len(whole)):
        with pytest.raises(WireError):
            decode_frame(whole[:length])


def test_frame_with_any_flipped_bit_is_refused() -> None:
    whole = encode_frame(Frame(Kind.MESSAGE, SESSION, b"hello"))
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            decode_frame(bytes(broken))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_frame(data)


def test_largest_fragment_fits_a_frame() -> None:
    fragment = cut_fragments(3, bytes(FRAGMENT_DATA_BYTES + 1))[0]
    assert len(encode_frame(Frame(Kind.FRAGMENT, SESSION, encode_fragment(9, fragment)))) <= MAX_FRAME_BYTES


def test_payload_over_the_limit_is_refused_when_sent() -> None:
    with pytest.raises(WireError):
        encode_frame(Frame(Kind.MESSAGE, SESSION, bytes(MAX_PAYLOAD_BYTES + 1)))


@given(st.integers(0, 3 * FRAGMENT_DATA_BYTES), st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_fragments_round_trip_and_join_to_their_block(size: int, number: int, grains: int) -> None:
    block = bytes(i % 251 for i in range(size))
    fragments = cut_fragments(5, block, grains * GRAIN_BYTES)
    assert b"".join(f.data for f in fragments) == block
    assert [decode_fragment(encode_fragment(number, f)) for f in fragments] == [(number, f) for f in fragments]


@pytest.mark.parametrize(
    "fragment",
    [
        Fragment(0, 0, MAX_BLOCK_BYTES + 1, bytes(16), bytes(FRAGMENT_DATA_BYTES)),
        Fragment(0, 1, 100, bytes(16), bytes(99)),
        Fragment(0, 0, 100, bytes(16), bytes(99)),
        Fragment(0, FRAGMENT_DATA_BYTES, 100, bytes(16), b""),
        Fragment(0, GRAIN_BYTES - 1, MAX_BLOCK_BYTES, bytes(16), bytes(GRAIN_BYTES)),
        Fragment(0, 0, MAX_BLOCK_BYTES, bytes(16), bytes(GRAIN_BYTES + 1)),
        Fragment(0, 0, MAX_BLOCK_BYTES, bytes(16), bytes(FRAGMENT_DATA_BYTES + GRAIN_BYTES)),
        Fragment(0, 0, MAX_BLOCK_BYTES, bytes(16), b""),
        Fragment(0, GRAIN_BYTES, GRAIN_BYTES, bytes(16), b""),
    ],
)
def test_fragment_outside_its_block_is_refused(fragment: Fragment) -> None:
    with pytest.raises(WireError):
        decode_fragment(encode_fragment(0, fragment))

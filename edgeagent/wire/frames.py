"""Frames: the bytes of one MQTT payload. Every length is checked before anything is allocated.

Plain frames, for a broker on this machine, have a checksum and no keys; `sealing` has those of enrolled machines. Both
begin alike, so that a reader knows whose frame one might be before it looks further.

    offset size
    0      2    magic "EA"
    2      1    version, 1
    3      1    kind (1 message, 2 fragment)
    4      16   session id
    20     4    payload length
    24     4    CRC-32 of bytes 0..23 and the payload
    28     n    payload

Integers are big-endian. A fragment's payload is 32 bytes of header, then data:

    0  4   number, counted from 0 in the order of first sending
    4  4   block index
    8  4   offset in the block
    12 4   block length
    16 16  BLAKE2b-128 of the whole block
"""

import enum
import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Protocol

from edgeagent.core.errors import WireError

MAX_FRAME_BYTES = 64 * 1024
"""Half of AWS IoT Core's payload limit (128 KB), and short enough that control messages get through."""
VERSION = 1
SESSION_BYTES = 16
DIGEST_BYTES = 16
MAX_BLOCK_BYTES = 16 * 2**20

_MAGIC = b"EA"
_LABEL = struct.Struct(f">2sBB{SESSION_BYTES}s")
_HEADER = struct.Struct(f">2sBB{SESSION_BYTES}sI")
_CRC = struct.Struct(">I")
_FRAGMENT = struct.Struct(f">IIII{DIGEST_BYTES}s")
HEADER_BYTES = _HEADER.size + _CRC.size
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES
FRAGMENT_DATA_BYTES = 48 * 1024
"""The most that a fragment carries."""
GRAIN_BYTES = 4 * 1024
"""Fragments begin on multiples of it and are multiples of it, but for the last one of a block."""


class Kind(enum.IntEnum):
    MESSAGE = 1
    FRAGMENT = 2


class Lane(enum.IntEnum):
    """What travels on one connection: its frames arrive in order, or again."""

    MESSAGES = 0
    BLOCKS = 1


@dataclass(frozen=True, slots=True)
class Label:
    """How the frames of every version begin. Nothing is checked yet but that there is room for a header."""

    version: int
    kind: int
    session: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    session: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of block `block` (of `block_bytes` bytes in all) at `offset`."""

    block: int
    offset: int
    block_bytes: int
    digest: bytes
    data: bytes


class FrameChannel(Protocol):
    """One end of a session, as bytes: what it makes, the other end reads."""

    @property
    def session(self) -> bytes: ...

    def seal(self, kind: Kind, payload: bytes, lane: Lane = Lane.MESSAGES) -> bytes:
        """One frame. Raises WireError when the payload is over the limit."""
        ...

    def open(self, data: bytes) -> Frame:
        """Raises WireError for anything but a frame of this session, and is then as it was before."""
        ...


@dataclass(frozen=True, slots=True)
class PlainChannel:
    """Frames with a checksum: it finds accidents and stops nobody."""

    session: bytes

    def seal(self, kind: Kind, payload: bytes, lane: Lane = Lane.MESSAGES) -> bytes:
        del lane
        return encode_frame(Frame(kind, self.session, payload))

    def open(self, data: bytes) -> Frame:
        frame = decode_frame(data)
        if frame.session != self.session:
            raise WireError("a frame of another session")
        return frame


def read_label(data: bytes) -> Label:
    """Raises WireError for what is no frame of any version."""
    if not HEADER_BYTES <= len(data) <= MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(data)} bytes is not within {HEADER_BYTES}..{MAX_FRAME_BYTES}")
    magic, version, kind, session = _LABEL.unpack_from(data)
    if magic != _MAGIC:
        raise WireError("not a frame of this protocol")
    return Label(version, kind, session)


def encode_frame(frame: Frame) -> bytes:
    if len(frame.payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"a payload of {len(frame.payload)} bytes is over {MAX_PAYLOAD_BYTES}; send it as a block")
    header = _HEADER.pack(_MAGIC, VERSION, frame.kind, frame.session, len(frame.payload))
    return header + _CRC.pack(zlib.crc32(frame.payload, zlib.crc32(header))) + frame.payload


def decode_frame(data: bytes) -> Frame:
    """The frame in one MQTT payload. Raises WireError for anything else than exactly one whole frame."""
    if not HEADER_BYTES <= len(data) <= MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(data)} bytes is not within {HEADER_BYTES}..{MAX_FRAME_BYTES}")
    magic, version, kind, session, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != VERSION:
        raise WireError(f"not a frame of version {VERSION}; both ends must run versions that agree")
    payload = data[HEADER_BYTES:]
    if len(payload) != length:
        raise WireError(f"a frame says {length} payload bytes and has {len(payload)}")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if zlib.crc32(payload, zlib.crc32(data[: _HEADER.size])) != crc:
        raise WireError("a frame's checksum is wrong")
    try:
        return Frame(Kind(kind), session, payload)
    except ValueError:
        raise WireError(f"a frame of unknown kind {kind}") from None


def block_digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=DIGEST_BYTES).digest()


def cut_fragments(index: int, block: bytes, num_bytes: int = FRAGMENT_DATA_BYTES) -> list[Fragment]:
    """A block as fragments of `num_bytes`, whole grains that fit a frame; an empty block is one empty fragment."""
    digest = block_digest(block)
    return [
        Fragment(index, offset, len(block), digest, block[offset : offset + num_bytes])
        for offset in range(0, max(1, len(block)), num_bytes)
    ]


def encode_fragment(number: int, fragment: Fragment) -> bytes:
    header = _FRAGMENT.pack(number, fragment.block, fragment.offset, fragment.block_bytes, fragment.digest)
    return header + fragment.data


def decode_fragment(payload: bytes) -> tuple[int, Fragment]:
    """The fragment's number, and the fragment.

    Raises WireError unless the piece is whole grains of a block of legal size, or its end.
    """
    if len(payload) < _FRAGMENT.size:
        raise WireError(f"a fragment of {len(payload)} bytes has no header")
    number, block, offset, block_bytes, digest = _FRAGMENT.unpack_from(payload)
    data = payload[_FRAGMENT.size :]
    if block_bytes > MAX_BLOCK_BYTES:
        raise WireError(f"a block of {block_bytes} bytes is over {MAX_BLOCK_BYTES}")
    left = block_bytes - offset
    is_piece = 0 < len(data) <= min(left, FRAGMENT_DATA_BYTES) and (len(data) == left or len(data) % GRAIN_BYTES == 0)
    if offset % GRAIN_BYTES or not (is_piece or block_bytes == offset == len(data)):
        raise WireError(f"a fragment of {len(data)} bytes at {offset} does not fit its block of {block_bytes}")
    return number, Fragment(block, offset, block_bytes, digest, data)

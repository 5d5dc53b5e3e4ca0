"""Sealed frames: the bytes of one MQTT payload inside an opened session. No I/O, no clock.

    offset size
    0      2    magic "EA"
    2      1    version, 2
    3      1    kind (1 message, 2 fragment; 3 opening, 4 answer, which are not sealed)
    4      16   session id
    20     4    lane (0 messages, 1 blocks; 0 in an opening and its answer)
    24     4    counter of this lane and direction, from 0 (0 in an opening and its answer)
    28     n    payload, encrypted
    28+n   16   tag

Integers are big-endian. The first 28 bytes are authenticated as associated data. The nonce is the direction's 12-byte
mask xor (four zero bytes, lane, counter), as in TLS 1.3 (RFC 8446, 5.3). A lane is what travels on one connection: its
frames arrive in order or again, so each lane has a window of its own.
"""

import enum
import struct
from collections.abc import Collection
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.frames import MAX_FRAME_BYTES, SESSION_BYTES, Frame, Kind, Lane
from edgeagent.wire.signed import NOT_AUTHENTIC

SEALED_VERSION = 2
OPENING_KIND = 3
ANSWER_KIND = 4
TAG_BYTES = 16
KEY_BYTES = 32
MASK_BYTES = 12
WINDOW_FRAMES = 1024
"""How far behind the highest counter a frame may still arrive, once."""
MAX_FRAMES = 2**23
"""Of one lane and direction. Two lanes of 64 KiB frames are 2^36 AES blocks under one key: what distinguishes them from
noise has a chance of 2^-57 then, the margin of TLS 1.3 (RFC 8446, 5.5)."""
MAX_FORGERIES = 2**20
"""Each has a chance of about 2^-90 against ChaCha20-Poly1305 with frames of this size (RFC 8439, 4)."""

_HEADER = struct.Struct(f">2sBB{SESSION_BYTES}sII")
_MAGIC = b"EA"
HEADER_BYTES = _HEADER.size
MAX_SEALED_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES - TAG_BYTES


class Aead(enum.IntEnum):
    """The device chooses: AES where its processor computes AES itself, else ChaCha20."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


def aead_for(cpu_flags: Collection[str]) -> Aead:
    """By the flags of /proc/cpuinfo: AES where the processor has it and the multiplication that GCM needs."""
    has_gcm = "aes" in cpu_flags and ("pclmulqdq" in cpu_flags or "pmull" in cpu_flags)
    return Aead.AES_256_GCM if has_gcm else Aead.CHACHA20_POLY1305


@dataclass(frozen=True, slots=True)
class Header:
    kind: int
    session: bytes
    lane: int = 0
    counter: int = 0

    def pack(self) -> bytes:
        return _HEADER.pack(_MAGIC, SEALED_VERSION, self.kind, self.session, self.lane, self.counter)


@dataclass(frozen=True, slots=True, repr=False)
class DirectionKey:
    """What one end seals with and the other opens with."""

    key: bytes
    mask: bytes


def read_header(data: bytes) -> Header:
    """Whose frame this might be. Raises ProtocolError; nothing is authentic yet."""
    if not HEADER_BYTES <= len(data) <= MAX_FRAME_BYTES:
        raise ProtocolError(NOT_AUTHENTIC)
    magic, version, kind, session, lane, counter = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != SEALED_VERSION:
        raise ProtocolError(NOT_AUTHENTIC)
    return Header(kind, session, lane, counter)


class ReplayWindow:
    """Counters that came: each is fresh once, and only while it is less than WINDOW_FRAMES behind the highest."""

    def __init__(self) -> None:
        self._next = 0
        self._seen = 0
        """Bit `i`: counter `_next - 1 - i` came."""

    def is_fresh(self, counter: int) -> bool:
        age = self._next - 1 - counter
        return age < 0 or (age < WINDOW_FRAMES and not self._seen >> age & 1)

    def note(self, counter: int) -> None:
        if counter >= self._next:
            # A jump over the whole window leaves nothing of it; it must not make a number of that many bits.
            ahead = counter + 1 - self._next
            self._seen = self._seen << ahead if ahead < WINDOW_FRAMES else 0
            self._next = counter + 1
        self._seen = (self._seen | 1 << (self._next - 1 - counter)) & ((1 << WINDOW_FRAMES) - 1)


class Channel:
    """One end of an opened session: seals what is sent, opens what came, each frame once.

    A frame that is refused changes nothing, so that whoever can publish rubbish cannot end the session with it. Only
    MAX_FORGERIES frames with a tag that was made up do; what is repeated costs no decryption and does not count.
    """

    def __init__(self, session: bytes, aead: Aead, sending: DirectionKey, receiving: DirectionKey) -> None:
        self.session = session
        self.num_forged = 0
        self.has_received = False
        """Whether the other end has shown that it has the keys."""
        self._sealer, self._opener = _cipher(aead, sending.key), _cipher(aead, receiving.key)
        self._sending, self._receiving = sending.mask, receiving.mask
        self._counters = dict.fromkeys(Lane, 0)
        self._windows = {lane: ReplayWindow() for lane in Lane}

    def seal(self, kind: Kind, payload: bytes, lane: Lane = Lane.MESSAGES) -> bytes:
        """One frame. Raises ProtocolError when the payload is over the limit, or the session has sent all it may."""
        counter = self._counters[lane]
        if len(payload) > MAX_SEALED_PAYLOAD_BYTES:
            raise ProtocolError(f"a payload of {len(payload)} bytes is over {MAX_SEALED_PAYLOAD_BYTES}; send a block")
        if counter >= MAX_FRAMES:
            raise ProtocolError(f"a session may send {MAX_FRAMES} frames; open another")
        self._counters[lane] = counter + 1
        header = Header(kind, self.session, lane, counter).pack()
        return header + self._sealer.encrypt(_nonce(self._sending, lane, counter), payload, header)

    def open(self, data: bytes) -> Frame:
        """The frame, if the other end sealed it and it did not come before. Raises ProtocolError."""
        header = read_header(data)
        try:
            kind, lane = Kind(header.kind), Lane(header.lane)
        except ValueError:
            raise ProtocolError(NOT_AUTHENTIC) from None
        window = self._windows[lane]
        if header.session != self.session or header.counter >= MAX_FRAMES or not window.is_fresh(header.counter):
            raise ProtocolError(NOT_AUTHENTIC)
        if self.num_forged >= MAX_FORGERIES:
            raise ProtocolError(NOT_AUTHENTIC, "too many frames of this session were forged")
        try:
            nonce = _nonce(self._receiving, lane, header.counter)
            payload = self._opener.decrypt(nonce, data[HEADER_BYTES:], data[:HEADER_BYTES])
        except InvalidTag:
            self.num_forged += 1
            raise ProtocolError(NOT_AUTHENTIC) from None
        window.note(header.counter)
        self.has_received = True
        return Frame(kind, self.session, payload)


def _cipher(aead: Aead, key: bytes) -> AESGCM | ChaCha20Poly1305:
    return AESGCM(key) if aead is Aead.AES_256_GCM else ChaCha20Poly1305(key)


def _nonce(mask: bytes, lane: int, counter: int) -> bytes:
    return (int.from_bytes(mask) ^ (lane << 32 | counter)).to_bytes(MASK_BYTES)

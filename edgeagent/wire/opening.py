"""Opening a session: one signed message each way, then keys that only the two ends have. No I/O, no clock.

The device sends an *opening*, the peer an *answer*. Their payloads, after the header of a frame:

    opening                              answer
    0    1    AEAD                       0    80   secret, sealed to the ephemeral key
    1    26   id of the peer             80   2+n+64 credential of the peer, signed by the fleet
    27   32   ephemeral X25519 key       …    64   signature by the peer
    59   80   secret, sealed to the peer
    139  2+n+64 credential of the device
    …    64   signature by the device

A secret is 32 random bytes sealed with HPKE (RFC 9180: DHKEM X25519 HKDF-SHA256, HKDF-SHA256, ChaCha20-Poly1305). HPKE
says nothing of the sender, so each message is signed; each seal is bound to both ends and the session through `info`,
so that nobody can sign what another sealed. Both secrets go through HKDF-SHA256 with a hash of both messages. The
second secret is sealed to a key that lives as long as the opening: who steals both ends' keys later cannot read
what he recorded. A replayed opening yields no keys to whoever replays it.
"""

import hashlib
import struct
from collections import OrderedDict
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.credentials import Credential, Refusal, Revocations, Role, verify
from edgeagent.wire.identity import Identity
from edgeagent.wire.sealing import (
    ANSWER_KIND,
    HEADER_BYTES,
    KEY_BYTES,
    MASK_BYTES,
    OPENING_KIND,
    Aead,
    Channel,
    DirectionKey,
    Header,
    read_header,
)
from edgeagent.wire.signed import (
    NOT_AUTHENTIC,
    SIGNATURE_BYTES,
    Draw,
    Purpose,
    Signed,
    is_signed_by,
    pack,
    signing_input,
    unpack,
)

SECRET_BYTES = 32
SEALED_SECRET_BYTES = 32 + SECRET_BYTES + 16
MAX_SEEN = 4096
"""Openings a peer remembers. One that was forgotten and comes again costs it a session that nobody can use."""

_OPENING = struct.Struct(f">1s26s32s{SEALED_SECRET_BYTES}s")
_ANSWER = struct.Struct(f">{SEALED_SECRET_BYTES}s")
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


@dataclass(frozen=True, slots=True)
class Party:
    """One end: its identity and credential, and what it judges others by."""

    identity: Identity
    credential: Signed
    fleet_key: bytes
    revocations: Revocations | None

    def judge(self, signed: Signed, now: int, role: Role) -> Credential:
        """Raises ProtocolError with the reason for the own log."""
        found = verify(signed, self.fleet_key, self.revocations, now, role)
        if isinstance(found, Refusal):
            raise ProtocolError(NOT_AUTHENTIC, found.value)
        return found


class Opening:
    """The device's side of one session: send `frame`, then `finish` with the answer."""

    def __init__(self, ours: Party, peer: Credential, session: bytes, aead: Aead, draw: Draw) -> None:
        """`peer` was judged before; `session` is fresh. Raises ProtocolError when its key is none."""
        self._ours, self._peer, self._aead, self._session = ours, peer, aead, session
        self._ephemeral: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(draw(KEY_BYTES))
        self._secret = draw(SECRET_BYTES)
        sealed = _seal(
            peer.identity.sealing, self._secret, _opening_info(session, ours.identity.public.id, peer.identity.id)
        )
        public = self._ephemeral.public_key().public_bytes_raw()
        unsigned = (
            Header(OPENING_KIND, session).pack()
            + _OPENING.pack(bytes([aead]), peer.identity.id.encode(), public, sealed)
            + pack(ours.credential)
        )
        self.frame = unsigned + ours.identity.sign_bytes(Purpose.OPENING, unsigned)

    def finish(self, data: bytes, now: int) -> tuple[Channel, Credential]:
        """The session, and the peer's credential as it is now.

        Raises ProtocolError for anything but the peer's answer to this opening, and at every call after that one. What
        somebody else made up leaves the opening as it is: the real answer may still come.
        """
        if self._ephemeral is None or read_header(data) != Header(ANSWER_KIND, self._session):
            raise ProtocolError(NOT_AUTHENTIC)
        (sealed,), signed, signature, unsigned = _split(data, _ANSWER)
        peer = self._ours.judge(signed, now, "peer")
        if (peer.identity, peer.name) != (self._peer.identity, self._peer.name):
            raise ProtocolError(NOT_AUTHENTIC, "another peer answered")
        opening = hashlib.sha256(self.frame).digest()
        if not is_signed_by(peer.identity.verifying, Purpose.ANSWER, opening + unsigned, signature):
            raise ProtocolError(NOT_AUTHENTIC)
        ephemeral, self._ephemeral = self._ephemeral, None
        secret = _open(ephemeral, sealed, _answer_info(opening, peer.identity.id))
        up, down = derive_keys(self._secret + secret, self.frame, data)
        return Channel(self._session, self._aead, sending=up, receiving=down), peer


@dataclass(frozen=True, slots=True)
class Answered:
    """A session that a peer has agreed to: publish `frame`. `device` says who it is and what it may do."""

    channel: Channel
    device: Credential
    frame: bytes


class Answerer:
    """The peer's side. Change `ours` when the own credential or the list of revocations changes."""

    def __init__(self, ours: Party, draw: Draw) -> None:
        self.ours = ours
        self._draw = draw
        self._seen: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def answer(self, data: bytes, sender: str, now: int) -> Answered:
        """Raises ProtocolError unless an opening for this peer, by a valid device of that name, comes the first time.

        `sender` is the device's id in the topic that the opening came on.
        """
        header = read_header(data)
        if header != Header(OPENING_KIND, header.session):
            raise ProtocolError(NOT_AUTHENTIC)
        (aead, to, ephemeral, sealed), signed, signature, unsigned = _split(data, _OPENING)
        device = self.ours.judge(signed, now, "device")
        if to != self.ours.identity.public.id.encode() or device.name != sender:
            raise ProtocolError(
                NOT_AUTHENTIC, "the opening is for another peer, or came on the topic of another device"
            )
        if not is_signed_by(device.identity.verifying, Purpose.OPENING, unsigned, signature):
            raise ProtocolError(NOT_AUTHENTIC)
        self._note(device.identity.id, header.session)
        return self._agreed(data, header.session, device, _aead(aead), ephemeral, sealed)

    def _agreed(
        self, data: bytes, session: bytes, device: Credential, aead: Aead, ephemeral: bytes, sealed: bytes
    ) -> Answered:
        us = self.ours.identity.public.id
        first = _open(self.ours.identity.sealing, sealed, _opening_info(session, device.identity.id, us))
        second, opening = self._draw(SECRET_BYTES), hashlib.sha256(data).digest()
        unsigned = (
            Header(ANSWER_KIND, session).pack()
            + _seal(ephemeral, second, _answer_info(opening, us))
            + pack(self.ours.credential)
        )
        frame = unsigned + self.ours.identity.sign_bytes(Purpose.ANSWER, opening + unsigned)
        up, down = derive_keys(first + second, data, frame)
        return Answered(Channel(session, aead, sending=down, receiving=up), device, frame)

    def _note(self, device: str, session: bytes) -> None:
        if (device, session) in self._seen:
            raise ProtocolError(NOT_AUTHENTIC, "an opening came again")
        self._seen[device, session] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)


def derive_keys(secrets: bytes, opening: bytes, answer: bytes) -> tuple[DirectionKey, DirectionKey]:
    """The keys from device to peer and from peer to device, of both secrets and both whole frames."""
    transcript = hashlib.sha256(hashlib.sha256(opening).digest() + hashlib.sha256(answer).digest()).digest()
    length = 2 * (KEY_BYTES + MASK_BYTES)
    okm = HKDF(SHA256(), length, salt=transcript, info=signing_input(Purpose.SESSION_KEYS, b"")).derive(secrets)
    up, down = okm[: length // 2], okm[length // 2 :]
    return DirectionKey(up[:KEY_BYTES], up[KEY_BYTES:]), DirectionKey(down[:KEY_BYTES], down[KEY_BYTES:])


def _split(data: bytes, fields: struct.Struct) -> tuple[tuple[bytes, ...], Signed, bytes, bytes]:
    """Fixed fields, credential and signature of a frame, and all of it before the signature."""
    if len(data) < HEADER_BYTES + fields.size + SIGNATURE_BYTES:
        raise ProtocolError(NOT_AUTHENTIC)
    signed, signature = unpack(data[HEADER_BYTES + fields.size :])
    if len(signature) != SIGNATURE_BYTES:
        raise ProtocolError(NOT_AUTHENTIC)
    return fields.unpack_from(data, HEADER_BYTES), signed, signature, data[:-SIGNATURE_BYTES]


def _opening_info(session: bytes, device_id: str, peer_id: str) -> bytes:
    return signing_input(Purpose.OPENING_SEAL, session + device_id.encode() + peer_id.encode())


def _answer_info(opening_digest: bytes, peer_id: str) -> bytes:
    return signing_input(Purpose.ANSWER_SEAL, opening_digest + peer_id.encode())


def _aead(number: bytes) -> Aead:
    try:
        return Aead(number[0])
    except ValueError:
        raise ProtocolError(NOT_AUTHENTIC) from None


def _seal(key: bytes, secret: bytes, info: bytes) -> bytes:
    """Raises ProtocolError for a key with which every secret would be known (RFC 7748, 6.1)."""
    try:
        return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(key), info)
    except ValueError:
        raise ProtocolError(NOT_AUTHENTIC) from None


def _open(key: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    try:
        return _SUITE.decrypt(sealed, key, info)
    except (InvalidTag, ValueError):
        raise ProtocolError(NOT_AUTHENTIC) from None

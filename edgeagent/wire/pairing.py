"""Pairing by a one-time code: a request to be enrolled and its bundle, between two who know 128 bits. No I/O, no clock.

    code     28 characters of Crockford's base32 in groups of four: 16 random bytes, then 12 bits that find mistyping
    topic    16 bytes of HKDF over the code; they say nothing of the rest
    request  header of a frame (kind 5, session = topic), 16 random bytes, then sealed: who asks, and his signed keys
    answer   header of a frame (kind 6, session = topic), then sealed: the bundle

Both are sealed with ChaCha20-Poly1305 under keys of their own, from HKDF-SHA256 over the code: the request's with its
random bytes as salt, the answer's with the hash of the request. So only who knows the code can ask or answer, and an
answer fits one request. Each key seals once: the nonce is zero.
"""

import hashlib
from collections.abc import Callable
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgeagent.core.errors import ProtocolError, RequestError
from edgeagent.wire.credentials import read_request, request
from edgeagent.wire.frames import SESSION_BYTES
from edgeagent.wire.identity import Identity, PublicIdentity
from edgeagent.wire.sealing import HEADER_BYTES, MAX_SEALED_PAYLOAD_BYTES, Header, read_header
from edgeagent.wire.signed import (
    MAX_BODY_BYTES,
    NOT_AUTHENTIC,
    Document,
    Draw,
    Name,
    Purpose,
    Signed,
    parse,
    signing_input,
)

CODE_BYTES = 16
VALID_S = 600
"""How long a code may be used, from when it was shown."""
REQUEST_KIND = 5
ANSWER_KIND = 6
SALT_BYTES = 16

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ALIKE = str.maketrans({"o": "0", "i": "1", "l": "1", "-": None, " ": None})
_CHARACTERS, _GROUP, _CHECK_BITS = 28, 4, 12
_NONCE = bytes(12)


class PairingCode:
    """A secret that one person reads and another types. It prints as its topic and nothing more."""

    def __init__(self, secret: bytes) -> None:
        assert len(secret) == CODE_BYTES
        self._secret = secret
        self.topic = self.key(b"topic")[:SESSION_BYTES]

    def __repr__(self) -> str:
        return f"PairingCode({self.topic.hex()})"

    @classmethod
    def make(cls, draw: Draw) -> Self:
        return cls(draw(CODE_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Capitals, spaces and hyphens do not matter, nor `o` for `0` or `l` for `1`. Raises RequestError."""
        typed = text.lower().translate(_ALIKE)
        if len(typed) != _CHARACTERS or any(c not in _ALPHABET for c in typed):
            raise RequestError(f"a code has {_CHARACTERS} letters and digits, without u; type what the peer shows")
        number = 0
        for character in typed:
            number = number << 5 | _ALPHABET.index(character)
        secret = (number >> _CHECK_BITS).to_bytes(CODE_BYTES)
        if number & (1 << _CHECK_BITS) - 1 != _check(secret):
            raise RequestError("the code is mistyped; type what the peer shows")
        return cls(secret)

    @property
    def text(self) -> str:
        number = int.from_bytes(self._secret) << _CHECK_BITS | _check(self._secret)
        letters = "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_CHARACTERS)))
        return "-".join(letters[i : i + _GROUP] for i in range(0, _CHARACTERS, _GROUP))

    def key(self, use: bytes, salt: bytes = b"") -> bytes:
        return HKDF(SHA256(), 32, salt=salt, info=signing_input(Purpose.PAIRING, use)).derive(self._secret)


class Asked(Document):
    """Who wants to be enrolled, under which name. What it may do is for the host to say."""

    name: Name
    request: Signed

    def identity(self) -> PublicIdentity:
        """Raises ProtocolError unless the keys signed for themselves."""
        return read_request(self.request)


class Guest:
    """The side that typed the code: send `frame`, again if need be, then `finish` with the answer."""

    def __init__(self, code: PairingCode, identity: Identity, name: str, draw: Draw) -> None:
        self._code = code
        asked = Asked(name=name, request=request(identity))
        head = Header(REQUEST_KIND, code.topic).pack() + draw(SALT_BYTES)
        key = code.key(b"request", head[HEADER_BYTES:])
        self.frame = head + ChaCha20Poly1305(key).encrypt(_NONCE, asked.model_dump_json().encode(), head)

    def finish(self, data: bytes) -> bytes:
        """What the host answered to this request. Raises ProtocolError for anything else, and may be tried again."""
        if read_header(data) != Header(ANSWER_KIND, self._code.topic):
            raise ProtocolError(NOT_AUTHENTIC)
        return _opened(_answer_key(self._code, self.frame), data, HEADER_BYTES)


class Host:
    """The side that shows the code: good for one guest, until VALID_S after `shown_at` (s, on a monotonic clock)."""

    def __init__(self, code: PairingCode, shown_at: float) -> None:
        self._code = code
        self._shown_at = shown_at
        self._spent: tuple[bytes, bytes] | None = None

    def answer(self, data: bytes, now: float, enroll: Callable[[Asked, PublicIdentity], bytes]) -> bytes:
        """The answer to a guest's request; `enroll` makes what is in it, once. The same request gets the same answer.

        Raises ProtocolError for another guest than the first, after VALID_S, and for whoever does not know the code.
        What `enroll` raises does not spend the code.
        """
        if read_header(data) != Header(REQUEST_KIND, self._code.topic) or now - self._shown_at >= VALID_S:
            raise ProtocolError(NOT_AUTHENTIC)
        if self._spent:
            if self._spent[0] != data:
                raise ProtocolError(NOT_AUTHENTIC, "the code was used")
            return self._spent[1]
        asked = self._asked(data)
        answer = self._sealed(data, enroll(asked, asked.identity()))
        self._spent = data, answer
        return answer

    def _asked(self, data: bytes) -> Asked:
        if len(data) > HEADER_BYTES + SALT_BYTES + 2 * MAX_BODY_BYTES:
            raise ProtocolError(NOT_AUTHENTIC)
        salt = data[HEADER_BYTES : HEADER_BYTES + SALT_BYTES]
        return parse(Asked, _opened(self._code.key(b"request", salt), data, HEADER_BYTES + SALT_BYTES))

    def _sealed(self, request_frame: bytes, reply: bytes) -> bytes:
        if len(reply) > MAX_SEALED_PAYLOAD_BYTES:
            raise ProtocolError(f"a bundle of {len(reply)} bytes does not fit a frame; carry it in a file")
        header = Header(ANSWER_KIND, self._code.topic).pack()
        return header + ChaCha20Poly1305(_answer_key(self._code, request_frame)).encrypt(_NONCE, reply, header)


def _answer_key(code: PairingCode, request_frame: bytes) -> bytes:
    return code.key(b"answer", hashlib.sha256(request_frame).digest())


def _opened(key: bytes, data: bytes, start: int) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, data[start:], data[:start])
    except InvalidTag:
        raise ProtocolError(NOT_AUTHENTIC) from None


def _check(secret: bytes) -> int:
    digest = hashlib.sha256(signing_input(Purpose.PAIRING_CHECK, secret)).digest()
    return int.from_bytes(digest[:2]) >> 16 - _CHECK_BITS

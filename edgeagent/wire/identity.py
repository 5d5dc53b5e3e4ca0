"""Identities: an Ed25519 key that signs and an X25519 key that is sealed to, and the fingerprint of both. No I/O."""

import base64
import hashlib
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.signed import (
    NOT_AUTHENTIC,
    Document,
    Draw,
    Fingerprint,
    Hex32,
    Purpose,
    Signed,
    sign,
    signing_input,
)

KEY_BYTES = 32
FINGERPRINT_BYTES = 16
"""128 bits: nobody finds a second pair of keys with the same fingerprint."""


class PublicIdentity(BaseModel):
    """The public half: `signing_key` for Ed25519 (RFC 8032), `sealing_key` for X25519 (RFC 7748), in hexadecimal."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    signing_key: Hex32
    sealing_key: Hex32

    @property
    def id(self) -> str:
        """The fingerprint of both keys: stable, the same everywhere, and what people compare."""
        return fingerprint(Purpose.IDENTITY, bytes.fromhex(self.signing_key + self.sealing_key))

    @property
    def verifying(self) -> bytes:
        return bytes.fromhex(self.signing_key)

    @property
    def sealing(self) -> bytes:
        return bytes.fromhex(self.sealing_key)


class SecretIdentity(Document):
    """An identity as it is kept in a file: both seeds, and the fingerprint that they must yield."""

    id: Fingerprint
    signing_seed: Hex32
    sealing_seed: Hex32


class Identity:
    """The private half of an identity. It prints as its fingerprint and nothing more."""

    def __init__(self, signing_seed: bytes, sealing_seed: bytes) -> None:
        self._seeds = signing_seed, sealing_seed
        self.signing = Ed25519PrivateKey.from_private_bytes(signing_seed)
        self.sealing = X25519PrivateKey.from_private_bytes(sealing_seed)
        self.public = PublicIdentity(
            signing_key=self.signing.public_key().public_bytes_raw().hex(),
            sealing_key=self.sealing.public_key().public_bytes_raw().hex(),
        )

    def __repr__(self) -> str:
        return f"Identity({self.public.id})"

    @classmethod
    def make(cls, draw: Draw) -> Self:
        return cls(draw(KEY_BYTES), draw(KEY_BYTES))

    @classmethod
    def from_secret(cls, secret: SecretIdentity) -> Self:
        """Raises ProtocolError when the seeds do not yield the fingerprint beside them."""
        made = cls(bytes.fromhex(secret.signing_seed), bytes.fromhex(secret.sealing_seed))
        if made.public.id != secret.id:
            raise ProtocolError(NOT_AUTHENTIC)
        return made

    def secret(self) -> SecretIdentity:
        signing, sealing = self._seeds
        return SecretIdentity(id=self.public.id, signing_seed=signing.hex(), sealing_seed=sealing.hex())

    def sign(self, purpose: Purpose, document: Document) -> Signed:
        return sign(self.signing, purpose, document)

    def sign_bytes(self, purpose: Purpose, data: bytes) -> bytes:
        return self.signing.sign(signing_input(purpose, data))


def fingerprint(purpose: Purpose, public_keys: bytes) -> str:
    """The first 16 bytes of SHA-256 over the keys, as 26 lower-case letters and digits (base32, RFC 4648)."""
    digest = hashlib.sha256(signing_input(purpose, public_keys)).digest()[:FINGERPRINT_BYTES]
    return base64.b32encode(digest).decode().rstrip("=").lower()

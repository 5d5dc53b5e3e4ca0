"""Signed documents: a JSON text and an Ed25519 signature over its exact bytes. No I/O.

What is signed is `edgeagent/1`, a zero byte, the purpose, a zero byte, the text. The purpose is in nobody's hands but
the code's, so a signature made for one purpose never passes for another. The signature is checked over the bytes that
came, before they are read: no canonical form is needed, and none is trusted.
"""

import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.topics import ID_PATTERN

Draw = Callable[[int], bytes]
"""That many random bytes, fit for keys."""

MAX_BODY_BYTES = 4096
MAX_REVOCATIONS_BYTES = 256 * 1024
SIGNATURE_BYTES = 64
NOT_AUTHENTIC = "what came is not authentic or not of this protocol; both ends need valid credentials of one fleet"
"""The one message of every refusal: who sent it learns nothing from it."""

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
"""It stands in topics."""
Fingerprint = Annotated[str, Field(pattern=r"^[a-z2-7]{26}$")]
Seconds = Annotated[int, Field(ge=0, le=2**40)]
"""Since 1970, UTC."""


class Purpose(StrEnum):
    """What a signature or a hash is for; each value is used for one kind of bytes only."""

    IDENTITY = "identity"
    FLEET = "fleet"
    REQUEST = "request"
    CREDENTIAL = "credential"
    REVOCATIONS = "revocations"
    OPENING = "opening"
    OPENING_SEAL = "opening seal"
    ANSWER = "answer"
    ANSWER_SEAL = "answer seal"
    SESSION_KEYS = "session keys"
    ANNOUNCEMENT = "announcement"
    OFFER = "offer"
    CLAIM = "claim"
    RECORD = "record"
    RECEIPT = "receipt"
    PAIRING = "pairing"
    PAIRING_CHECK = "pairing check"


class Document(BaseModel):
    """Base of what is signed: unknown keys, other types and other versions are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1


class Signed(BaseModel):
    """A text and its signature, as they are kept in files; nothing in it is believed before `read`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    body: Annotated[str, Field(max_length=MAX_REVOCATIONS_BYTES)]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


_Document = TypeVar("_Document", bound=Document)
_LENGTH = struct.Struct(">H")


def signing_input(purpose: Purpose, data: bytes) -> bytes:
    """The bytes that are signed, or hashed, for a purpose."""
    return b"edgeagent/1\0" + purpose.encode() + b"\0" + data


def sign(key: Ed25519PrivateKey, purpose: Purpose, document: Document) -> Signed:
    body = document.model_dump_json()
    return Signed(body=body, signature=key.sign(signing_input(purpose, body.encode())).hex())


def is_signed_by(public_key: bytes, purpose: Purpose, data: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signing_input(purpose, data))
    except (InvalidSignature, ValueError):
        return False
    return True


def read(
    model: type[_Document], signed: Signed, purpose: Purpose, public_key: bytes, max_bytes: int = MAX_BODY_BYTES
) -> _Document:
    """The document, when its signature is good. Raises ProtocolError."""
    body = signed.body.encode()
    if len(body) > max_bytes or not is_signed_by(public_key, purpose, body, bytes.fromhex(signed.signature)):
        raise ProtocolError(NOT_AUTHENTIC)
    return parse(model, body)


def parse(model: type[_Document], body: bytes) -> _Document:
    """The document in a text of bounded length. Raises ProtocolError. It says nothing of who wrote it."""
    try:
        return model.model_validate_json(body)
    except ValidationError:
        raise ProtocolError(NOT_AUTHENTIC) from None


def pack(signed: Signed) -> bytes:
    """For a frame: two bytes of length, the text, 64 bytes of signature. The text has at most MAX_BODY_BYTES."""
    body = signed.body.encode()
    assert len(body) <= MAX_BODY_BYTES
    return _LENGTH.pack(len(body)) + body + bytes.fromhex(signed.signature)


def unpack(data: bytes) -> tuple[Signed, bytes]:
    """What `pack` made at the start of `data`, and the rest. Raises ProtocolError."""
    length = _LENGTH.unpack_from(data)[0] if len(data) >= _LENGTH.size else MAX_BODY_BYTES + 1
    end = _LENGTH.size + length
    if length > MAX_BODY_BYTES or len(data) < end + SIGNATURE_BYTES:
        raise ProtocolError(NOT_AUTHENTIC)
    try:
        body = data[_LENGTH.size : end].decode()
    except UnicodeDecodeError:
        raise ProtocolError(NOT_AUTHENTIC) from None
    return Signed(body=body, signature=data[end : end + SIGNATURE_BYTES].hex()), data[end + SIGNATURE_BYTES :]

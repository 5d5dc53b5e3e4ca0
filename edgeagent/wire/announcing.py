"""What a peer says of itself, retained on the broker: signed by its identity, beside the credential that names it.

The payload is a header (kind 7, session of zeros), the packed credential, 64 bytes of signature, then a JSON text. The
signature is over the hash of the credential and the text, so that neither goes with another. No I/O, no clock.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.credentials import Credential
from edgeagent.wire.frames import SESSION_BYTES
from edgeagent.wire.opening import Party
from edgeagent.wire.sealing import HEADER_BYTES, Header, read_header
from edgeagent.wire.signed import NOT_AUTHENTIC, SIGNATURE_BYTES, Document, Purpose, is_signed_by, pack, parse, unpack

ANNOUNCEMENT_KIND = 7
MAX_STATUS_BYTES = 32 * 1024

_HEADER = Header(ANNOUNCEMENT_KIND, bytes(SESSION_BYTES))


class Announcement(Document):
    status: Annotated[str, Field(max_length=MAX_STATUS_BYTES)]
    """A peer's status as JSON; it is read like any other, only that now somebody answers for it."""
    number: Annotated[int, Field(ge=0, le=2**60)]
    """Grows from one to the next, also over restarts: of two, the higher is the newer."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An announcement that a valid peer of this fleet signed."""

    peer: Credential
    status: bytes
    number: int


def announce(ours: Party, status: bytes, number: int) -> bytes:
    text = Announcement(status=status.decode(), number=number).model_dump_json().encode()
    credential = pack(ours.credential)
    signature = ours.identity.sign_bytes(Purpose.ANNOUNCEMENT, hashlib.sha256(credential).digest() + text)
    return _HEADER.pack() + credential + signature + text


def read_announcement(data: bytes, ours: Party, name: str, now: int) -> Announced:
    """`name` is the peer's in the topic. Raises ProtocolError unless a valid peer of that name signed it."""
    if read_header(data) != _HEADER:
        raise ProtocolError(NOT_AUTHENTIC)
    signed, rest = unpack(data[HEADER_BYTES:])
    peer = ours.judge(signed, now, "peer")
    signature, text = rest[:SIGNATURE_BYTES], rest[SIGNATURE_BYTES:]
    digest = hashlib.sha256(pack(signed)).digest()
    if peer.name != name or not is_signed_by(peer.identity.verifying, Purpose.ANNOUNCEMENT, digest + text, signature):
        raise ProtocolError(NOT_AUTHENTIC)
    found = parse(Announcement, text)
    return Announced(peer, found.status.encode(), found.number)

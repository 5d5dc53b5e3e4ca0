"""Notes between members of a fleet: who says so has signed it. No I/O, no clock.

The payload is a header (kind 8 an offer, 9 a claim, 10 a record, 11 a receipt; the note's number where a session's id
would be), the packed credential, 64 bytes of signature, then a JSON text. The signature is over the hash of the
credential and the text.
"""

import hashlib

from edgeagent.core.errors import ProtocolError, WireError
from edgeagent.wire.credentials import Credential, Role
from edgeagent.wire.notes import AnyNote, Note, decode_note, encode_note
from edgeagent.wire.offers import JobClaim, JobOffer
from edgeagent.wire.opening import Party
from edgeagent.wire.records import Receipt, Record
from edgeagent.wire.sealing import HEADER_BYTES, Header, read_header
from edgeagent.wire.signed import NOT_AUTHENTIC, SIGNATURE_BYTES, Purpose, is_signed_by, pack, unpack

_KINDS: dict[type[AnyNote], tuple[int, Purpose, Role]] = {
    JobOffer: (8, Purpose.OFFER, "device"),
    JobClaim: (9, Purpose.CLAIM, "peer"),
    Record: (10, Purpose.RECORD, "device"),
    Receipt: (11, Purpose.RECEIPT, "peer"),
}


def sign_note(ours: Party, note: AnyNote) -> bytes:
    number, purpose, _ = _KINDS[type(note)]
    credential, text = pack(ours.credential), encode_note(note)
    signature = ours.identity.sign_bytes(purpose, hashlib.sha256(credential).digest() + text)
    return Header(number, bytes.fromhex(note.number)).pack() + credential + signature + text


def read_note(kind: type[Note], data: bytes, ours: Party, now: int) -> tuple[Note, Credential]:
    """What a valid device or peer says, and its credential.

    Raises ProtocolError unless whom it names has signed it.
    """
    number, purpose, role = _KINDS[kind]
    header = read_header(data)
    if header != Header(number, header.session):
        raise ProtocolError(NOT_AUTHENTIC)
    signed, rest = unpack(data[HEADER_BYTES:])
    theirs = ours.judge(signed, now, role)
    signature, text = rest[:SIGNATURE_BYTES], rest[SIGNATURE_BYTES:]
    digest = hashlib.sha256(pack(signed)).digest()
    if not is_signed_by(theirs.identity.verifying, purpose, digest + text, signature):
        raise ProtocolError(NOT_AUTHENTIC)
    try:
        note = decode_note(kind, text)
    except WireError as error:
        raise ProtocolError(NOT_AUTHENTIC, str(error)) from None
    name = note.device if isinstance(note, JobOffer | Record) else note.peer
    if name != theirs.name or bytes.fromhex(note.number) != header.session:
        raise ProtocolError(NOT_AUTHENTIC)
    return note, theirs

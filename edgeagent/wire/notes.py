"""Notes: single documents that belong to no session, each with a number of its own.

In no fleet they are messages in plain frames, with the note's number where a session's id would be; `signed_notes` has
those of a fleet. No I/O, no clock.
"""

from typing import TypeVar

from pydantic import ValidationError

from edgeagent.core.errors import WireError
from edgeagent.wire.frames import Frame, Kind, decode_frame, encode_frame
from edgeagent.wire.offers import JobClaim, JobOffer
from edgeagent.wire.records import Receipt, Record

MAX_NOTE_BYTES = 4096

AnyNote = JobOffer | JobClaim | Record | Receipt
Note = TypeVar("Note", JobOffer, JobClaim, Record, Receipt)


def encode_note(note: AnyNote) -> bytes:
    return note.model_dump_json(exclude_none=True).encode()


def decode_note(kind: type[Note], text: bytes) -> Note:
    """Raises WireError for anything else."""
    if len(text) > MAX_NOTE_BYTES:
        raise WireError(f"a note of {len(text)} bytes is over {MAX_NOTE_BYTES}")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise WireError(f"not such a note of this protocol: {error.errors()[0]['msg']}") from None


def encode_plain(note: AnyNote) -> bytes:
    return encode_frame(Frame(Kind.MESSAGE, bytes.fromhex(note.number), encode_note(note)))


def decode_plain(kind: type[Note], data: bytes) -> Note:
    """Raises WireError for anything else."""
    frame = decode_frame(data)
    if frame.kind is not Kind.MESSAGE:
        raise WireError("a note came as a fragment")
    note = decode_note(kind, frame.payload)
    if bytes.fromhex(note.number) != frame.session:
        raise WireError("a note came in the frame of another")
    return note

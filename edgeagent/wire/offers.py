"""Jobs that are offered to whichever peer is free, and the claims that answer them: sizes and times, no content.

In no fleet both are messages in plain frames, with the offer's number where a session's id would be; `signed_offers`
has those of a fleet. No I/O, no clock.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from edgeagent.core.cards import Sha256
from edgeagent.core.errors import WireError
from edgeagent.wire.frames import Frame, Kind, decode_frame, encode_frame
from edgeagent.wire.messages import MAX_PROMPT_TOKENS, Body
from edgeagent.wire.topics import ID_PATTERN

MAX_NOTE_BYTES = 4096

Number = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]


class JobOffer(Body):
    """Device, to some peer that holds the model: when could you do this? `number` is random; claims repeat it."""

    type: Literal["offer"] = "offer"
    number: Number
    device: Name
    job: Literal["prefill", "remote"]
    model: Name
    variant_sha256: Sha256 | None = None
    exact_key: Annotated[str, Field(max_length=64)] = ""
    """As in an Open: a peer that has another one has nothing to claim."""
    prompt_tokens: Annotated[int, Field(ge=0, le=MAX_PROMPT_TOKENS)]
    answer_tokens: Annotated[int, Field(ge=0, le=MAX_PROMPT_TOKENS)]
    """How many it will probably become."""
    deadline_s: Annotated[float, Field(ge=0)] | None = None
    """Seconds from now after which nobody wants it any more."""


class JobClaim(Body):
    """Peer, to the device: I would be done so soon, and keep a place for you for a lease. Or: not I (`refused`)."""

    type: Literal["claim"] = "claim"
    number: Number
    peer: Name
    finish_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds from now until the whole job would be done, by what the peer has to do already."""
    refused: Annotated[str, Field(pattern=r"^[a-z_]{0,64}$")] = ""
    """An error's code; empty: it is claimed."""


Note = TypeVar("Note", JobOffer, JobClaim)


def encode_note(note: JobOffer | JobClaim) -> bytes:
    return note.model_dump_json(exclude_none=True).encode()


def decode_note(kind: type[Note], text: bytes) -> Note:
    """Raises WireError for anything else."""
    if len(text) > MAX_NOTE_BYTES:
        raise WireError(f"an offer or claim of {len(text)} bytes is over {MAX_NOTE_BYTES}")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise WireError(f"neither offer nor claim of this protocol: {error.errors()[0]['msg']}") from None


def encode_plain(note: JobOffer | JobClaim) -> bytes:
    return encode_frame(Frame(Kind.MESSAGE, bytes.fromhex(note.number), encode_note(note)))


def decode_plain(kind: type[Note], data: bytes) -> Note:
    """Raises WireError for anything else."""
    frame = decode_frame(data)
    if frame.kind is not Kind.MESSAGE:
        raise WireError("an offer or claim came as a fragment")
    note = decode_note(kind, frame.payload)
    if bytes.fromhex(note.number) != frame.session:
        raise WireError("an offer or claim came in the frame of another")
    return note

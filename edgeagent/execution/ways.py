"""How a device and a peer come to a session: plainly on one machine, or sealed between members of a fleet.

Here is what both need, and the plain way, for a broker on a loopback address; `trust.sealed` has the other. Which one a
process uses is decided once, by whether this machine is enrolled: nothing is negotiated, so nothing can be talked down.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from edgeagent.core.errors import WireError
from edgeagent.wire.frames import FrameChannel, Kind, Label, PlainChannel, decode_frame
from edgeagent.wire.messages import Open, PeerStatus, decode_message, decode_status
from edgeagent.wire.notes import AnyNote, decode_plain, encode_plain
from edgeagent.wire.offers import JobClaim, JobOffer
from edgeagent.wire.records import Receipt, Record

Exchange = Callable[[bytes, Callable[[bytes], FrameChannel]], Awaitable[FrameChannel]]
"""Sends an opening, and gives each answer to the function until one makes a channel. Raises PeerLostError."""


class Rights(Protocol):
    """What somebody may do here (a credential)."""

    def allows(self, plan: str, model: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session that a peer takes part in. `reply` goes to the device; `is_first`: what came is its first frame.

    `rights` None: nobody says what the device may do, so it may do all. `serial` is its credential's.
    """

    channel: FrameChannel
    rights: Rights | None = None
    serial: str = ""
    reply: bytes | None = None
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class Offered:
    """A job that a device offers. `rights` as in `Admitted`."""

    offer: JobOffer
    rights: Rights | None = None


class DeviceWay(Protocol):
    """The device's end."""

    def read_status(self, name: str, payload: bytes) -> PeerStatus:
        """What came on the status topic of `name`. Raises WireError for what does not count."""
        ...

    def may(self, peer: str, plan: str, model: str) -> bool:
        """Whether this device and that peer may do that together."""
        ...

    def still_valid(self, peer: str) -> bool:
        """Whether a session with that peer may go on."""
        ...

    async def open(self, peer: str, session: bytes, exchange: Exchange) -> FrameChannel:
        """Raises PeerError."""
        ...

    def tell(self, note: AnyNote) -> bytes:
        """What to publish. Raises PeerError."""
        ...

    def read_claim(self, data: bytes) -> JobClaim:
        """Raises WireError for what no peer can have said."""
        ...

    def read_receipt(self, data: bytes) -> Receipt:
        """The same."""
        ...


class PeerWay(Protocol):
    """The peer's end."""

    def status(self, status: PeerStatus) -> bytes:
        """What to publish."""
        ...

    def admit(self, label: Label, data: bytes, device: str) -> Admitted | None:
        """A frame of no session that is known, which came on the topic of `device`. None: it opens none.

        Raises WireError for an opening that may not be.
        """
        ...

    def still_valid(self, serial: str) -> bool:
        """Whether a session that was admitted may go on."""
        ...

    def read_offer(self, data: bytes) -> Offered:
        """Raises WireError for what no device can have said."""
        ...

    def read_record(self, data: bytes) -> Record:
        """The same."""
        ...

    def tell(self, note: AnyNote) -> bytes:
        """What to publish."""
        ...


class PlainDevice:
    """Takes everybody at his word."""

    def read_status(self, name: str, payload: bytes) -> PeerStatus:
        status = decode_status(payload)
        if status.id != name:
            raise WireError(f"a status of '{status.id[:64]}' came on the topic of another")
        if status.signed:
            raise WireError(f"peer '{name}' serves its fleet only, and this machine is in none; see docs/trust.md")
        return status

    def may(self, peer: str, plan: str, model: str) -> bool:
        del peer, plan, model
        return True

    def still_valid(self, peer: str) -> bool:
        del peer
        return True

    async def open(self, peer: str, session: bytes, exchange: Exchange) -> FrameChannel:
        del peer, exchange
        return PlainChannel(session)

    def tell(self, note: AnyNote) -> bytes:
        return encode_plain(note)

    def read_claim(self, data: bytes) -> JobClaim:
        return decode_plain(JobClaim, data)

    def read_receipt(self, data: bytes) -> Receipt:
        return decode_plain(Receipt, data)


class PlainPeer:
    """A message `open` of an unknown session begins one."""

    def status(self, status: PeerStatus) -> bytes:
        return status.model_dump_json(exclude_none=True).encode()

    def admit(self, label: Label, data: bytes, device: str) -> Admitted | None:
        del device
        if label.kind != Kind.MESSAGE or not isinstance(decode_message(decode_frame(data).payload), Open):
            return None  # a late word of a session that is over
        return Admitted(PlainChannel(label.session), is_first=True)

    def still_valid(self, serial: str) -> bool:
        del serial
        return True

    def read_offer(self, data: bytes) -> Offered:
        return Offered(decode_plain(JobOffer, data))

    def read_record(self, data: bytes) -> Record:
        return decode_plain(Record, data)

    def tell(self, note: AnyNote) -> bytes:
        return encode_plain(note)

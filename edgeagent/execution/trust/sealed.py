"""Sessions between members of a fleet: who is taken for a peer, who for a device, and the keys between them."""

import base64
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from edgeagent.core.errors import PeerError, TrustError, WireError
from edgeagent.execution.trust.standing import Standing
from edgeagent.execution.ways import Admitted, Exchange, Offered
from edgeagent.wire.announcing import Announced, announce, read_announcement
from edgeagent.wire.credentials import Credential
from edgeagent.wire.frames import FrameChannel, Label
from edgeagent.wire.messages import PeerStatus, decode_status
from edgeagent.wire.notes import AnyNote
from edgeagent.wire.offers import JobClaim, JobOffer
from edgeagent.wire.opening import Answerer, Opening, Party
from edgeagent.wire.records import Receipt, Record
from edgeagent.wire.sealing import OPENING_KIND, SEALED_VERSION, Aead
from edgeagent.wire.signed import Draw
from edgeagent.wire.signed_notes import read_note, sign_note

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    """The newest announcement of a peer."""

    credential: Credential
    number: int


class SealedDevice:
    """See `ways.DeviceWay`. A peer is who our fleet says, and what it signed of itself."""

    def __init__(self, standing: Standing, aead: Aead, draw: Draw = secrets.token_bytes) -> None:
        self._standing = standing
        self._aead = aead
        self._draw = draw
        self._known: dict[str, _Known] = {}

    def read_status(self, name: str, payload: bytes) -> PeerStatus:
        """A status that says `offline` needs no signature: a broker that lies so only says what it could do anyway."""
        told = decode_status(payload)
        if told.id == name and told.state == "offline" and told.signed is None:
            return told
        if told.signed is None:
            raise WireError(f"peer '{name}' is in no fleet, and this machine is; enrol it as a peer")
        found = self._announced(name, told.signed)
        status = decode_status(found.status)
        if status.id != name:
            raise WireError(f"a status of '{status.id[:64]}' was signed by '{name}'")
        self._known[name] = _Known(found.peer, found.number)
        return status

    def _announced(self, name: str, signed: str) -> Announced:
        try:
            data = base64.b64decode(signed, validate=True)
        except ValueError:
            raise WireError(f"the signed part of the status of '{name}' is not base64") from None
        found = read_announcement(data, self._party(), name, self._standing.now)
        known = self._known.get(name)
        if known and known.credential.identity == found.peer.identity and found.number < known.number:
            raise WireError(f"a status of '{name}' that is older than the last one")
        return found

    def may(self, peer: str, plan: str, model: str) -> bool:
        try:
            ours = self._standing.own("device")
        except TrustError:
            return False
        known = self._known.get(peer)
        if known is None or not self.still_valid(peer) or known.credential.expires <= self._standing.now:
            return False
        return ours.allows(plan, model) and known.credential.allows(plan, model)

    def still_valid(self, peer: str) -> bool:
        known = self._known.get(peer)
        return known is None or not self._standing.is_revoked(known.credential.serial)

    async def open(self, peer: str, session: bytes, exchange: Exchange) -> FrameChannel:
        known = self._known.get(peer)
        if known is None:
            raise PeerError(f"peer {peer} has not shown a credential of this fleet")
        try:
            self._standing.own("device")
            opening = Opening(self._standing.party("device"), known.credential, session, self._aead, self._draw)
        except TrustError as error:
            raise PeerError(str(error)) from None

        def read(answer: bytes) -> FrameChannel:
            return opening.finish(answer, self._standing.now)[0]

        return await exchange(opening.frame, read)

    def tell(self, note: AnyNote) -> bytes:
        try:
            self._standing.own("device")
            return sign_note(self._standing.party("device"), note)
        except TrustError as error:
            raise PeerError(str(error)) from None

    def read_claim(self, data: bytes) -> JobClaim:
        return read_note(JobClaim, data, self._party(), self._standing.now)[0]

    def read_receipt(self, data: bytes) -> Receipt:
        return read_note(Receipt, data, self._party(), self._standing.now)[0]

    def _party(self) -> Party:
        """Raises WireError when we are none."""
        try:
            return self._standing.party("device")
        except TrustError as error:  # whoever reads goes on reading, as all that comes is refused like this
            raise WireError(str(error)) from None


class SealedPeer:
    """See `ways.PeerWay`. `clock` (s since 1970) numbers announcements, so that they grow over restarts."""

    def __init__(self, standing: Standing, clock: Callable[[], float], draw: Draw = secrets.token_bytes) -> None:
        self._standing = standing
        self._clock = clock
        self._answerer = Answerer(standing.party("peer"), draw)
        self._number = 0

    def status(self, status: PeerStatus) -> bytes:
        text = status.model_dump_json(exclude_none=True).encode()
        # A clock that was set back must not make news look old.
        self._number = max(self._number + 1, int(self._clock() * 1e6))
        signed = announce(self._standing.party("peer"), text, self._number)
        told = status.model_copy(update={"signed": base64.b64encode(signed).decode()})
        return told.model_dump_json().encode()

    def admit(self, label: Label, data: bytes, device: str) -> Admitted | None:
        if label.version != SEALED_VERSION or label.kind != OPENING_KIND:
            return None
        self._answerer.ours = self._standing.party("peer")
        answered = self._answerer.answer(data, device, self._standing.now)
        return Admitted(answered.channel, answered.device, answered.device.serial, reply=answered.frame)

    def still_valid(self, serial: str) -> bool:
        return not self._standing.is_revoked(serial)

    def read_offer(self, data: bytes) -> Offered:
        offer, device = read_note(JobOffer, data, self._standing.party("peer"), self._standing.now)
        return Offered(offer, device)

    def read_record(self, data: bytes) -> Record:
        return read_note(Record, data, self._standing.party("peer"), self._standing.now)[0]

    def tell(self, note: AnyNote) -> bytes:
        return sign_note(self._standing.party("peer"), note)


def check_standing(standing: Standing, role: str, name: str) -> None:
    """Raises TrustError when this machine cannot act in that role under that name."""
    credential = standing.own("peer" if role == "peer" else "device")
    if credential.name != name:
        raise TrustError(
            f"this machine is enrolled as '{credential.name}' and called '{name}'; set mqtt.device_id to it"
        )

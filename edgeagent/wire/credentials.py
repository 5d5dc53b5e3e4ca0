"""Credentials and revocation lists: what a fleet's key says of a machine, and whether it holds. No I/O, no clock."""

from enum import StrEnum
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from edgeagent.core.errors import ProtocolError
from edgeagent.wire.identity import Identity, PublicIdentity, fingerprint
from edgeagent.wire.signed import (
    MAX_BODY_BYTES,
    MAX_REVOCATIONS_BYTES,
    NOT_AUTHENTIC,
    Document,
    Fingerprint,
    Hex16,
    Name,
    Purpose,
    Seconds,
    Signed,
    parse,
    read,
    sign,
)

MAX_REVOKED = 3000
"""Entries of about 75 bytes, so that a list stays below MAX_REVOCATIONS_BYTES."""

Role = Literal["device", "peer"]
PlanName = Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,31}$")]
"""No enum: an older program must be able to read a credential that names a newer plan."""
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]


class Request(Document):
    """A machine asks to be enrolled: its public keys, signed by itself."""

    identity: PublicIdentity


class Credential(Document):
    """A fleet's key says: the holder of these keys is `name`, may act in this role, until then."""

    fleet: Fingerprint
    serial: Hex16
    name: Name
    role: Role
    identity: PublicIdentity
    plans: Annotated[tuple[PlanName, ...], Field(max_length=16)] | None = None
    """Plans that it may take part in; None: every plan."""
    models: Annotated[tuple[ModelName, ...], Field(max_length=32)] | None = None
    """Cards that it may use or offer; None: every model."""
    not_before: Seconds
    expires: Seconds
    """First second at which it is worth nothing."""

    def allows(self, plan: str, model: str) -> bool:
        return (self.plans is None or plan in self.plans) and (self.models is None or model in self.models)


class Revoked(Document):
    serial: Hex16
    expires: Seconds
    """When the credential is worth nothing anyway, and may leave the list."""


class Revocations(Document):
    """Every credential of a fleet that was taken back and has not expired. Of two lists the higher number counts."""

    fleet: Fingerprint
    number: Annotated[int, Field(ge=1, le=2**40)]
    issued: Seconds
    revoked: Annotated[tuple[Revoked, ...], Field(max_length=MAX_REVOKED)] = ()

    def holds(self, serial: str) -> bool:
        return any(entry.serial == serial for entry in self.revoked)


class Refusal(StrEnum):
    """Why a credential is not worth anything here and now."""

    BAD_SIGNATURE = "bad signature"
    WRONG_FLEET = "wrong fleet"
    WRONG_ROLE = "wrong role"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


class FleetKey:
    """The operator's key. It prints as its fingerprint and nothing more."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()
        self.id = fleet_id(self.public)

    def __repr__(self) -> str:
        return f"FleetKey({self.id})"

    def credential(self, credential: Credential) -> Signed:
        assert credential.fleet == self.id
        return sign(self._key, Purpose.CREDENTIAL, credential)

    def revocations(self, revocations: Revocations) -> Signed:
        assert revocations.fleet == self.id
        return sign(self._key, Purpose.REVOCATIONS, revocations)


def fleet_id(public_key: bytes) -> str:
    return fingerprint(Purpose.FLEET, public_key)


def request(identity: Identity) -> Signed:
    return identity.sign(Purpose.REQUEST, Request(identity=identity.public))


def read_request(signed: Signed) -> PublicIdentity:
    """The keys in a request that their holder signed. Raises ProtocolError."""
    body = signed.body.encode()
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(NOT_AUTHENTIC)
    claimed = parse(Request, body).identity
    return read(Request, signed, Purpose.REQUEST, claimed.verifying).identity


def verify(
    signed: Signed, fleet_key: bytes, revocations: Revocations | None, now: int, role: Role
) -> Credential | Refusal:
    """The credential, if this fleet's key gave it for this role and it holds at `now` (s since 1970); else why not."""
    try:
        credential = read(Credential, signed, Purpose.CREDENTIAL, fleet_key)
    except ProtocolError:
        return _why_unsigned(signed, fleet_key)
    if credential.fleet != fleet_id(fleet_key):
        return Refusal.WRONG_FLEET
    if credential.role != role:
        return Refusal.WRONG_ROLE
    if now < credential.not_before:
        return Refusal.NOT_YET_VALID
    if now >= credential.expires:
        return Refusal.EXPIRED
    if revocations is not None and revocations.holds(credential.serial):
        return Refusal.REVOKED
    return credential


def newer(signed: Signed, fleet_key: bytes, held: Revocations | None) -> Revocations:
    """The list, when its number is higher than that of the held one; the held one when not.

    Raises ProtocolError for what this fleet's key did not sign.
    """
    found = read(Revocations, signed, Purpose.REVOCATIONS, fleet_key, MAX_REVOCATIONS_BYTES)
    if found.fleet != fleet_id(fleet_key):
        raise ProtocolError(NOT_AUTHENTIC)
    return found if held is None or found.number > held.number else held


def _why_unsigned(signed: Signed, fleet_key: bytes) -> Refusal:
    """Tells a person who mixed up two fleets; nothing is allowed by it."""
    body = signed.body.encode()
    try:
        claimed = parse(Credential, body) if len(body) <= MAX_BODY_BYTES else None
    except ProtocolError:
        claimed = None
    return Refusal.WRONG_FLEET if claimed and claimed.fleet != fleet_id(fleet_key) else Refusal.BAD_SIGNATURE

"""Which fleet this machine belongs to: the fleet's key, its own credentials, the newest list of revocations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict

from edgeagent.core.errors import ProtocolError, TrustError
from edgeagent.execution.trust.carried import Bundle
from edgeagent.execution.trust.files import locked, read_private, write_private
from edgeagent.execution.trust.identity import load_identity, load_or_make_identity
from edgeagent.wire.credentials import Credential, Refusal, Revocations, Role, newer, verify
from edgeagent.wire.identity import Identity
from edgeagent.wire.opening import Party
from edgeagent.wire.signed import Hex32, Purpose, Signed, read

IDENTITY_FILE = "identity.json"
MEMBERSHIP_FILE = "membership.json"


class MembershipFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fleet_key: Hex32
    credentials: dict[Role, Signed]
    revocations: Signed


@dataclass(frozen=True, slots=True)
class Membership:
    """What `load_membership` has checked: every signature is by `fleet_key`, every credential has our keys."""

    identity: Identity
    fleet_key: bytes
    signed: Mapping[Role, Signed]
    credentials: Mapping[Role, Credential]
    revocations: Revocations
    signed_revocations: Signed

    def now(self, clock_s: float) -> int:
        """The time, but never before what the fleet has signed: boards without a clock start in the past."""
        return max(int(clock_s), self.revocations.issued, *(c.not_before for c in self.credentials.values()))

    def verify(self, signed: Signed, clock_s: float, role: Role) -> Credential | Refusal:
        """Another's credential, judged by our fleet's key."""
        return verify(signed, self.fleet_key, self.revocations, self.now(clock_s), role)

    def party(self, role: Role) -> Party:
        """What opens sessions in that role. Raises TrustError when this machine was not enrolled for it."""
        if role not in self.signed:
            raise TrustError(f"this machine is not enrolled as a {role}; `edgeagent fleet enroll NAME --role {role}`")
        return Party(self.identity, self.signed[role], self.fleet_key, self.revocations)

    def own(self, clock_s: float, role: Role) -> Credential | Refusal | None:
        """Our own in that role; None when we never had one."""
        return self.verify(self.signed[role], clock_s, role) if role in self.signed else None


def load_membership(folder: Path) -> Membership | None:
    """None when this machine was never enrolled. Raises TrustError for files that are damaged or not private."""
    file = read_private(folder / MEMBERSHIP_FILE, MembershipFile)
    identity = load_identity(folder / IDENTITY_FILE)
    if file is None or identity is None:
        return None
    try:
        return _checked(file, identity)
    except ProtocolError:
        raise TrustError(
            f"{folder / MEMBERSHIP_FILE} does not fit its own signatures or {IDENTITY_FILE}; join the fleet again"
        ) from None


def join(
    folder: Path, bundle: Bundle, clock_s: float, *, name: str = "", replace: bool = False
) -> tuple[Membership, Credential]:
    """Become what the bundle says; our membership, and the credential that came with it.

    Raises TrustError, and leaves the membership as it was: when the bundle is not valid here, or is for another name
    than `name` (empty: any). Another fleet, another name than before, or keys made elsewhere for a machine that has
    been enrolled with its own need `replace`.
    """
    with locked(folder):
        old = load_membership(folder) if not replace else None
        key = bytes.fromhex(bundle.fleet_key)
        if old and old.fleet_key != key:
            raise TrustError("this machine belongs to another fleet; join with --replace to leave that one")
        identity = _identity(folder, bundle, old, replace=replace)
        file, credential = _admitted(identity, bundle, old, clock_s)
        if credential.name != (name or credential.name):
            raise TrustError(
                f"the bundle is for '{credential.name}' and mqtt.device_id is '{name}'; change one of them"
            )
        membership = _checked(file, identity)
        if bundle.identity:
            write_private(folder / IDENTITY_FILE, bundle.identity)
        write_private(folder / MEMBERSHIP_FILE, file)
    return membership, credential


def take_revocations(folder: Path, signed: Signed) -> Membership:
    """Keep a list if it is newer than ours. Raises TrustError when it is not our fleet's, or there is no fleet."""
    with locked(folder):
        old = load_membership(folder)
        if old is None:
            raise TrustError("this machine is in no fleet, so no list is about it; join one with its bundle first")
        revocations = _newer(signed, old.fleet_key, old.revocations)
        if revocations == old.revocations:
            return old
        file = MembershipFile(fleet_key=old.fleet_key.hex(), credentials=dict(old.signed), revocations=signed)
        write_private(folder / MEMBERSHIP_FILE, file)
        return _checked(file, old.identity)


def _identity(folder: Path, bundle: Bundle, old: Membership | None, *, replace: bool) -> Identity:
    if bundle.identity is None:
        return load_or_make_identity(folder / IDENTITY_FILE)
    try:
        made = Identity.from_secret(bundle.identity)
    except ProtocolError:
        raise TrustError("the bundle is damaged: its keys do not yield its id; ask for it again") from None
    if old and not replace and old.identity.public != made.public:
        raise TrustError("this machine is enrolled with other keys; join with --replace to give these up")
    return made


def _admitted(
    identity: Identity, bundle: Bundle, old: Membership | None, clock_s: float
) -> tuple[MembershipFile, Credential]:
    key = bytes.fromhex(bundle.fleet_key)
    revocations = _newer(bundle.revocations, key, old.revocations if old else None)
    now = max(int(clock_s), revocations.issued)
    for role in get_args(Role):
        found = verify(bundle.credential, key, revocations, now, role)
        if isinstance(found, Credential):
            break
        if found is not Refusal.WRONG_ROLE:
            raise TrustError(
                f"the bundle's credential is not valid here ({found}); check the clock, or ask for another"
            )
    assert isinstance(found, Credential)
    if found.identity != identity.public:
        raise TrustError(
            f"the bundle is for {found.identity.id}, this machine is {identity.public.id}; "
            "enrol it with its own request"
        )
    if old and any(c.name != found.name for c in old.credentials.values()):
        raise TrustError(f"the bundle is for '{found.name}', another name than this machine's; join with --replace")
    credentials = {**(old.signed if old else {}), found.role: bundle.credential}
    signed = old.signed_revocations if old and revocations == old.revocations else bundle.revocations
    return MembershipFile(fleet_key=bundle.fleet_key, credentials=credentials, revocations=signed), found


def _newer(signed: Signed, key: bytes, held: Revocations | None) -> Revocations:
    try:
        return newer(signed, key, held)
    except ProtocolError:
        raise TrustError("the list of revocations is not signed by this machine's fleet; ask for it again") from None


def _checked(file: MembershipFile, identity: Identity) -> Membership:
    """Raises ProtocolError."""
    key = bytes.fromhex(file.fleet_key)
    revocations = newer(file.revocations, key, None)
    credentials = {role: read(Credential, signed, Purpose.CREDENTIAL, key) for role, signed in file.credentials.items()}
    for role, credential in credentials.items():
        if credential.role != role or credential.identity != identity.public:
            raise ProtocolError("a credential is for other keys")
    return Membership(identity, key, file.credentials, credentials, revocations, file.revocations)

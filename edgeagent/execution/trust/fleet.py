"""The fleet an operator keeps: its key, a register of what the key has signed, the list of revocations."""

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from edgeagent.core.errors import NotFoundError, TrustError
from edgeagent.execution.trust.carried import Bundle
from edgeagent.execution.trust.files import create_private, locked, read_private, write_private
from edgeagent.wire.credentials import MAX_REVOKED, Credential, FleetKey, Revocations, Revoked, Role
from edgeagent.wire.identity import KEY_BYTES, Identity, PublicIdentity
from edgeagent.wire.signed import Hex32, Seconds, Signed

FLEET_FILE = "fleet.json"
DAY_S = 86_400
USUAL_DAYS = 365
"""A credential's time: nothing renews it by itself in this version."""
SKEW_S = 300
"""A credential holds from a little before it was made, for clocks that are behind the operator's."""
KEEP_EXPIRED_S = 30 * DAY_S
"""What expired stays listed and registered for so long, for clocks that are behind."""


class Issued(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    credential: Credential
    issued: Seconds
    revoked: Seconds | None = None

    def state(self, now: int) -> str:
        if self.revoked is not None:
            return "revoked"
        return "valid" if now < self.credential.expires else "expired"


class FleetFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    seed: Hex32
    created: Seconds
    issued: tuple[Issued, ...] = ()
    revocations: Signed
    number: int
    """Of the list above."""


class Fleet:
    """The operator's fleet in one private file. Whoever has the file is the operator."""

    def __init__(self, folder: Path, file: FleetFile) -> None:
        self._folder = folder
        self.file = file
        self.key = FleetKey(bytes.fromhex(file.seed))

    @classmethod
    def init(cls, folder: Path, now: int) -> "Fleet":
        """Make a new fleet. Raises TrustError when there is one."""
        key = FleetKey(seed := secrets.token_bytes(KEY_BYTES))
        empty = key.revocations(Revocations(fleet=key.id, number=now, issued=now))
        file = FleetFile(seed=seed.hex(), created=now, revocations=empty, number=now)
        if not create_private(folder / FLEET_FILE, file):
            raise TrustError(f"there is a fleet in {folder}; go on with it, or move that folder away")
        return cls(folder, file)

    @classmethod
    def load(cls, folder: Path) -> "Fleet | None":
        """Raises TrustError when its file is damaged or readable by others."""
        file = read_private(folder / FLEET_FILE, FleetFile)
        return None if file is None else cls(folder, file)

    @classmethod
    def open(cls, folder: Path) -> "Fleet":
        """The fleet kept here. Raises TrustError when there is none."""
        if (fleet := cls.load(folder)) is None:
            raise TrustError(f"no fleet is kept in {folder}; make one with `edgeagent fleet init`")
        return fleet


def enroll(
    folder: Path,
    name: str,
    role: Role,
    now: int,
    days: int,
    *,
    asked_by: PublicIdentity | None = None,
    plans: tuple[str, ...] | None = None,
    models: tuple[str, ...] | None = None,
) -> tuple[Bundle, Credential]:
    """Sign a credential and register it. Without `asked_by` the keys are made here, and the bundle holds them.

    Raises TrustError when the name is enrolled with other keys: what is revoked must be said, not guessed.
    """
    with locked(folder):
        fleet = Fleet.open(folder)
        made = None if asked_by else Identity.make(secrets.token_bytes)
        identity = asked_by or (made.public if made else None)
        assert identity is not None
        _check_free(fleet.file.issued, name, identity, now)
        credential = Credential(
            fleet=fleet.key.id,
            serial=secrets.token_hex(16),
            name=name,
            role=role,
            identity=identity,
            plans=plans,
            models=models,
            not_before=now - SKEW_S,
            expires=now + days * DAY_S,
        )
        register = (*_lasting(fleet.file.issued, now), Issued(credential=credential, issued=now))
        write_private(folder / FLEET_FILE, fleet.file.model_copy(update={"issued": register}))
    bundle = Bundle(
        fleet_key=fleet.key.public.hex(),
        credential=fleet.key.credential(credential),
        revocations=fleet.file.revocations,
        identity=made.secret() if made else None,
    )
    return bundle, credential


def revoke(folder: Path, name: str, now: int) -> tuple[Signed, tuple[Credential, ...]]:
    """Take back every credential of that name; the new list, and what it took back.

    Raises NotFoundError when nothing of that name is valid, TrustError when the list is full.
    """
    with locked(folder):
        fleet = Fleet.open(folder)
        taken = [i for i in fleet.file.issued if i.credential.name == name and i.state(now) == "valid"]
        if not taken:
            raise NotFoundError(f"nothing valid is enrolled as '{name}'; `edgeagent fleet status` lists the names")
        register = tuple(
            i.model_copy(update={"revoked": now}) if i in taken else i for i in _lasting(fleet.file.issued, now)
        )
        # By the clock, so that a fleet restored from an old copy still counts upwards.
        number = max(fleet.file.number + 1, now)
        listed = _listed(fleet.key.id, register, number, now)
        file = fleet.file.model_copy(
            update={"issued": register, "revocations": fleet.key.revocations(listed), "number": number}
        )
        write_private(folder / FLEET_FILE, file)
    return file.revocations, tuple(i.credential for i in taken)


def _listed(fleet_id: str, register: Iterable[Issued], number: int, now: int) -> Revocations:
    entries = tuple(
        Revoked(serial=i.credential.serial, expires=i.credential.expires) for i in register if i.revoked is not None
    )
    if len(entries) > MAX_REVOKED:
        raise TrustError(f"more than {MAX_REVOKED} unexpired credentials would be revoked; make a new fleet")
    return Revocations(fleet=fleet_id, number=number, issued=now, revoked=entries)


def _lasting(register: Iterable[Issued], now: int) -> tuple[Issued, ...]:
    return tuple(i for i in register if now < i.credential.expires + KEEP_EXPIRED_S)


def _check_free(register: Iterable[Issued], name: str, identity: PublicIdentity, now: int) -> None:
    others = (i for i in register if i.credential.name == name and i.state(now) == "valid")
    if any(i.credential.identity != identity for i in others):
        raise TrustError(f"'{name}' is enrolled with other keys; revoke it first with `edgeagent fleet revoke {name}`")

"""A fleet with a device and a peer whose keys are fixed, and a session between them."""

import random
from dataclasses import dataclass

from edgeagent.wire.credentials import Credential, FleetKey, Role
from edgeagent.wire.identity import Identity
from edgeagent.wire.opening import Answerer, Opening, Party
from edgeagent.wire.sealing import Aead, Channel
from edgeagent.wire.signed import Draw

FLEET, OTHER_FLEET = FleetKey(bytes([1] * 32)), FleetKey(bytes([2] * 32))
KITCHEN = Identity(bytes([3] * 32), bytes([4] * 32))
GARAGE = Identity(bytes([5] * 32), bytes([6] * 32))
THIEF = Identity(bytes([7] * 32), bytes([8] * 32))
NOW = 1_800_000_000
SESSION = bytes(range(16))


def drawn(seed: int) -> Draw:
    """Bytes that are the same in every run."""
    return random.Random(seed).randbytes


def credential(identity: Identity, name: str, role: Role, by: FleetKey = FLEET) -> Credential:
    return Credential(
        fleet=by.id,
        serial=identity.public.signing_key[:32],
        name=name,
        role=role,
        identity=identity.public,
        not_before=NOW - 100,
        expires=NOW + 100,
    )


def party(identity: Identity, name: str, role: Role, by: FleetKey = FLEET) -> Party:
    return Party(identity, by.credential(credential(identity, name, role, by)), by.public, None)


DEVICE, PEER = party(KITCHEN, "kitchen", "device"), party(GARAGE, "garage", "peer")
GARAGE_CREDENTIAL = credential(GARAGE, "garage", "peer")


def opening(ours: Party = DEVICE, session: bytes = SESSION, aead: Aead = Aead.CHACHA20_POLY1305) -> Opening:
    return Opening(ours, GARAGE_CREDENTIAL, session, aead, drawn(1))


def answerer(ours: Party = PEER) -> Answerer:
    return Answerer(ours, drawn(2))


@dataclass
class Opened:
    """Both ends of a session."""

    device: Channel
    peer: Channel


def opened(aead: Aead = Aead.CHACHA20_POLY1305) -> Opened:
    started = opening(aead=aead)
    answered = answerer().answer(started.frame, "kitchen", NOW)
    return Opened(started.finish(answered.frame, NOW)[0], answered.channel)

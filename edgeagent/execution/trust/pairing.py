"""Pairing over a broker: one machine shows a code and keeps the fleet, the other types it and joins."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from edgeagent.core.errors import PeerLostError, ProtocolError, TrustError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.transport.base import Subscription, Transport
from edgeagent.execution.trust.carried import Bundle
from edgeagent.execution.trust.files import parse_file
from edgeagent.execution.trust.fleet import FLEET_FILE, USUAL_DAYS, Fleet, enroll
from edgeagent.execution.trust.identity import load_or_make_identity
from edgeagent.execution.trust.membership import IDENTITY_FILE, join, load_membership
from edgeagent.wire.credentials import Credential
from edgeagent.wire.identity import PublicIdentity
from edgeagent.wire.pairing import VALID_S, Asked, Guest, Host, PairingCode
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)

REPEAT_S = 2.0
"""A guest asks again after so long: the host may have been away when it asked."""
LINGER_S = 2 * REPEAT_S
"""A host stays so long after its answer, for a guest that did not get it."""

Enroll = Callable[[Asked, PublicIdentity], bytes]


def keep_home_fleet(fleet_folder: Path, trust_folder: Path, name: str, clock_s: float) -> None:
    """Make sure that a fleet is kept here and that this machine is a peer of it.

    Raises TrustError when this machine belongs to a fleet whose key is elsewhere.
    """
    if (fleet := Fleet.load(fleet_folder)) is None:
        if load_membership(trust_folder):
            raise TrustError("the key of this machine's fleet is not here; pair where `edgeagent fleet init` was run")
        fleet = Fleet.init(fleet_folder, int(clock_s))
    membership = load_membership(trust_folder)
    if membership and membership.fleet_key != fleet.key.public:
        raise TrustError(f"this machine belongs to another fleet than the one in {fleet_folder / FLEET_FILE}")
    if membership is None or not isinstance(membership.own(clock_s, "peer"), Credential):
        identity = load_or_make_identity(trust_folder / IDENTITY_FILE)
        bundle, _ = enroll(fleet_folder, name, "peer", int(clock_s), USUAL_DAYS, asked_by=identity.public)
        join(trust_folder, bundle, clock_s)


def enroller(fleet_folder: Path, clock: Callable[[], float]) -> Enroll:
    """What a host does with whoever knows the code: it becomes a device, whatever else it may want."""

    def admit(asked: Asked, identity: PublicIdentity) -> bytes:
        bundle, _ = enroll(fleet_folder, asked.name, "device", int(clock()), USUAL_DAYS, asked_by=identity)
        return bundle.model_dump_json().encode()

    return admit


async def host(
    transport: Transport, topics: Topics, code: PairingCode, admit: Enroll, *, linger_s: float = LINGER_S
) -> tuple[Asked, PublicIdentity]:
    """Wait for the one guest who knows the code, and enrol it. Raises TrustError when none came in VALID_S."""
    guests: list[tuple[Asked, PublicIdentity]] = []
    answering = Host(code, time.monotonic())
    requests = transport.subscribe(topics.pairing_request(code.topic))

    def note(asked: Asked, identity: PublicIdentity) -> bytes:
        reply = admit(asked, identity)
        guests.append((asked, identity))
        limit.reschedule(asyncio.get_running_loop().time() + linger_s)
        return reply

    refused = Dropping(log, "a guest's request")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(VALID_S) as limit:
            while True:
                with contextlib.suppress(PeerLostError):  # the connection comes back by itself
                    _, payload = await requests.get()
                    if answer := _answer(answering, payload, note, refused):
                        transport.publish(topics.pairing_answer(code.topic), answer)
    if not guests:
        raise TrustError(f"nobody used the code within {VALID_S // 60} minutes; start again")
    return guests[0]


async def join_by_code(
    transport: Transport,
    topics: Topics,
    code: PairingCode,
    trust_folder: Path,
    name: str,
    clock: Callable[[], float],
    *,
    replace: bool = False,
) -> Credential:
    """Ask whoever shows the code, and join its fleet as a device. Raises TrustError when nobody answers in VALID_S."""
    identity = load_or_make_identity(trust_folder / IDENTITY_FILE)
    reply = await _ask(transport, topics, code, Guest(code, identity, name, secrets.token_bytes))
    bundle = parse_file(Path("the answer"), reply, Bundle)
    return join(trust_folder, bundle, clock(), name=name, replace=replace)[1]


async def _ask(transport: Transport, topics: Topics, code: PairingCode, guest: Guest) -> bytes:
    answers = transport.subscribe(topics.pairing_answer(code.topic))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(VALID_S):
            while True:
                with contextlib.suppress(PeerLostError):
                    transport.publish(topics.pairing_request(code.topic), guest.frame)
                if reply := await _heard(answers, guest):
                    return reply
    raise TrustError("nobody answers to this code; see whether `edgeagent peer --pair` still shows it")


async def _heard(answers: Subscription, guest: Guest) -> bytes | None:
    """The host's answer, if it comes before it is time to ask again."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REPEAT_S):
            while True:
                with contextlib.suppress(PeerLostError, ProtocolError):
                    return guest.finish((await answers.get())[1])
    return None


def _answer(answering: Host, payload: bytes, admit: Enroll, refused: Dropping) -> bytes | None:
    try:
        return answering.answer(payload, time.monotonic(), admit)
    except ProtocolError as error:
        refused.note(error.reason or "it does not know the code")
        return None

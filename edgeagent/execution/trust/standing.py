"""Our place in a fleet while a process runs: newer lists of revocations are taken as they come."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from edgeagent.core.errors import PeerLostError, TrustError
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.transport.base import Transport
from edgeagent.execution.trust.carried import RevocationsFile
from edgeagent.execution.trust.files import parse_file
from edgeagent.execution.trust.membership import Membership, load_membership, take_revocations
from edgeagent.wire.credentials import Credential, Refusal, Role, fleet_id
from edgeagent.wire.frames import MAX_FRAME_BYTES
from edgeagent.wire.opening import Party
from edgeagent.wire.signed import Signed
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)

PUBLISH_S = 5.0


class Standing:
    """Our membership as it is now. `clock` gives seconds since 1970."""

    def __init__(self, folder: Path, membership: Membership, clock: Callable[[], float]) -> None:
        self.membership = membership
        self._folder = folder
        self._clock = clock

    @property
    def now(self) -> int:
        return self.membership.now(self._clock())

    @property
    def fleet(self) -> str:
        return fleet_id(self.membership.fleet_key)

    def party(self, role: Role) -> Party:
        """Raises TrustError when this machine was not enrolled for that."""
        return self.membership.party(role)

    def own(self, role: Role) -> Credential:
        """Our credential in that role. Raises TrustError when there is none that holds now."""
        found = self.membership.own(self._clock(), role)
        if isinstance(found, Credential):
            return found
        why = (
            f"its credential as a {role} is {found}"
            if isinstance(found, Refusal)
            else f"it is not enrolled as a {role}"
        )
        raise TrustError(f"this machine may not use its fleet: {why}; enrol it again and join with the bundle")

    def is_revoked(self, serial: str) -> bool:
        return self.membership.revocations.holds(serial)

    def take(self, signed: Signed) -> bool:
        """Whether the list was newer than ours. Raises TrustError for what is not our fleet's."""
        before = self.membership.revocations.number
        self.membership = take_revocations(self._folder, signed)
        return self.membership.revocations.number > before


def load_standing(folder: Path, clock: Callable[[], float]) -> Standing | None:
    """None when this machine is in no fleet. Raises TrustError for damaged files."""
    membership = load_membership(folder)
    return Standing(folder, membership, clock) if membership else None


async def follow_revocations(
    transport: Transport, topics: Topics, standing: Standing, on_newer: Callable[[], None]
) -> None:
    """Take lists from the broker until cancelled; `on_newer` is called after each that was news."""
    lists, bad = transport.subscribe(topics.revocations(standing.fleet)), Dropping(log, "a list of revocations")
    while True:
        try:
            topic, payload = await lists.get()
            if standing.take(parse_file(Path(topic), payload, RevocationsFile).revocations):
                log.info("took a newer list of revocations", extra={"number": standing.membership.revocations.number})
                on_newer()
        except PeerLostError:
            continue  # the connection comes back by itself, and with it what is retained
        except (TrustError, OSError) as error:
            bad.note(error)


async def publish_revocations(transport: Transport, topics: Topics, fleet: str, signed: Signed) -> None:
    """Leave the list on the broker for every member; done when it came back from there.

    Raises TrustError when it is too long for one payload, PeerLostError when the broker does not give it back.
    """
    payload, topic = RevocationsFile(revocations=signed).model_dump_json().encode(), topics.revocations(fleet)
    if len(payload) > MAX_FRAME_BYTES:
        raise TrustError(f"a list of {len(payload)} bytes is too long for the broker; carry it as a file (--out)")
    arrived = transport.subscribe(topic)
    transport.publish(topic, payload, retain=True)
    try:
        async with asyncio.timeout(PUBLISH_S):
            while (await arrived.get())[1] != payload:
                pass
    except TimeoutError:
        raise PeerLostError(f"the broker did not take the list within {PUBLISH_S:g} s; carry it as a file") from None

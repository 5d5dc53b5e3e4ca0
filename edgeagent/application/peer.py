"""The peer role: offers this machine's models on the broker and runs jobs for devices."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edgeagent.application.peer_job import Job, Offer, StoppedError
from edgeagent.core.errors import (
    BusyError,
    EdgeAgentError,
    PeerError,
    PeerLostError,
    ProtocolError,
    RequestError,
    WireError,
)
from edgeagent.execution.admission import Claim
from edgeagent.execution.session import Session
from edgeagent.execution.transport.base import Subscription, Transport
from edgeagent.execution.ways import Admitted, PeerWay, PlainPeer, Rights
from edgeagent.wire.frames import read_label
from edgeagent.wire.messages import (
    Failed,
    Open,
    PeerStatus,
    Stop,
)
from edgeagent.wire.topics import Topics
from edgeagent.wire.window import Pace

log = logging.getLogger(__name__)

MAX_SESSIONS = 64
OPEN_S = 5.0
"""How long a device with a session may take to open its job: sessions are few."""
MAX_PACES = 1024
"""Devices whose links are remembered."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A session under way, and whose it is."""

    session: Session
    admitted: Admitted


class PeerService:
    """Serves sessions while `run` runs; at most MAX_SESSIONS at once; each waits for a turn at its engine."""

    def __init__(
        self,
        peer: str,
        version: str,
        transport: Transport,
        topics: Topics,
        offers: list[Offer],
        way: PeerWay | None = None,
    ) -> None:
        self._way = way or PlainPeer()
        self._peer = peer
        self._version = version
        self._transport = transport
        self._topics = topics
        self._offers = {offer.model.model: offer for offer in offers}
        self._sessions: dict[tuple[str, bytes], _Open] = {}
        self._paces: dict[str, Pace] = {}

    async def run(self) -> None:
        """Announce, serve, and say offline when cancelled."""
        subscription = self._transport.subscribe(self._topics.to_peer_from_all(self._peer))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._announce(), name="peer-announce")
                group.create_task(self._read(subscription, group), name="peer-read")
        finally:
            with contextlib.suppress(PeerLostError):
                self._publish_status("offline")

    async def _announce(self) -> None:
        """Keep the retained status true, also after the broker forgot it in a restart."""
        while True:
            with contextlib.suppress(PeerLostError):
                self._publish_status("online")
            await asyncio.sleep(5)

    def _publish_status(self, state: str) -> None:
        status = PeerStatus.model_validate(
            {
                "id": self._peer,
                "state": state,
                "version": self._version,
                "models": tuple(offer.model for offer in self._offers.values()),
                "queue": len(self._sessions),
            }
        )
        self._transport.publish(self._topics.peer_status(self._peer), self._way.status(status), retain=True)

    def review(self) -> None:
        """End the sessions of devices that were revoked meanwhile."""
        for each in self._sessions.values():
            if not self._way.still_valid(each.admitted.serial):
                each.session.fail(PeerError("the device's credential was revoked"))

    async def _read(self, subscription: Subscription, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                topic, payload = await subscription.get()
                self._take(self._topics.last_id(topic), payload, group)
            except PeerLostError as error:
                for each in self._sessions.values():
                    each.session.fail(error)
            except WireError as error:
                log.warning("dropped a frame: %s", _reason(error))

    def _take(self, device: str, data: bytes, group: asyncio.TaskGroup) -> None:
        label = read_label(data)
        key = (device, label.session)
        if known := self._sessions.get(key):
            known.session.feed(data)
            return
        admitted = self._way.admit(label, data, device)
        if admitted is None:
            return
        publish = self._sender(device)
        session = Session(admitted.channel, publish, serves=True, pace=self._paces.get(device))
        with contextlib.suppress(PeerLostError):  # the device has a lease
            if admitted.reply is not None:
                publish(admitted.reply, False)
        if len(self._sessions) >= MAX_SESSIONS:
            self._refuse(session)
            return
        self._sessions[key] = _Open(session, admitted)
        if admitted.is_first:
            session.feed(data)
        group.create_task(self._serve(key, session, admitted.rights), name=f"peer-session-{device}")

    def _refuse(self, session: Session) -> None:
        log.warning("refused a session: %d are open", len(self._sessions))
        busy = BusyError(f"{len(self._sessions)} sessions are open on this peer; try again later")
        with contextlib.suppress(PeerLostError):
            session.send(Failed(code=busy.code, message=str(busy)))

    def _sender(self, device: str) -> Callable[[bytes, bool], None]:
        topics = {False: self._topics.to_device(device), True: self._topics.to_device_bulk(device)}
        return lambda data, bulk: self._transport.publish(topics[bulk], data, bulk=bulk)

    async def _serve(self, key: tuple[str, bytes], session: Session, rights: Rights | None) -> None:
        """One session from its admission to the end. No failure of a session reaches another."""
        try:
            async with session.kept_alive():
                job = await _opened(session)
                log.info("session opened device=%s job=%s", key[0], job.job)
                if rights and job.job != "probe" and not rights.allows(job.job, job.model):
                    raise RequestError(f"the credential of '{key[0]}' does not allow {job.job} with '{job.model}'")
                await Job(session, job, self._offers, Claim(key[0])).run()
        except (PeerLostError, StoppedError) as error:
            log.info("session ended device=%s reason=%s", key[0], error)
        except EdgeAgentError as error:
            log.warning("session failed device=%s reason=%s", key[0], error)
            with contextlib.suppress(PeerLostError):
                session.send(Failed(code=error.code, message=str(error)))
        except Exception:
            # A job's last border: whatever it is, the peer and its other sessions outlive it.
            log.exception("session broke device=%s", key[0])
            with contextlib.suppress(PeerError):
                session.send(Failed(code=EdgeAgentError.code, message="the job broke at the peer; see its log"))
        finally:
            del self._sessions[key]
            self._note_pace(key[0], session)

    def _note_pace(self, device: str, session: Session) -> None:
        """What blocks showed of the link, for the device's next job."""
        if session.pace is not None:
            self._paces.pop(device, None)
            self._paces[device] = session.pace
        while len(self._paces) > MAX_PACES:
            del self._paces[next(iter(self._paces))]


async def _opened(session: Session) -> Open:
    """The job that a device opens.

    Raises PeerLostError after a lease of silence and when none comes, StoppedError when it leaves without one.
    """
    try:
        async with asyncio.timeout(OPEN_S):
            while True:
                match await session.receive():
                    case Open() as job:
                        return job
                    case Stop():
                        raise StoppedError("the device left without a job")
                    case _:
                        continue
    except TimeoutError:
        raise PeerLostError(f"the device opened no job within {OPEN_S:g} s") from None


def _reason(error: WireError) -> str:
    """For the own log: why something was not authentic is nobody else's business."""
    return error.reason or str(error) if isinstance(error, ProtocolError) else str(error)

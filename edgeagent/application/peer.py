"""The peer role: offers this machine's models on the broker and runs jobs for devices."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeagent.application.claiming import Claims
from edgeagent.application.peer_job import Job, Offer, StoppedError
from edgeagent.application.relaying import Relay
from edgeagent.application.workload import Workload, needs_of
from edgeagent.core.errors import (
    BusyError,
    EdgeAgentError,
    PassedOnError,
    PeerError,
    PeerLostError,
    PeerRefusedError,
    ProtocolError,
    RequestError,
    TooManyRequestsError,
    WireError,
)
from edgeagent.execution.admission import Claim
from edgeagent.execution.dropping import Dropping
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
MAX_DEVICE_SESSIONS = 16
"""Of these, one device's: a faulty one must not keep all others out."""
ANNOUNCE_S, CHANGED_S = 5.0, 0.5
"""Between two statuses, and where what is to do has changed."""
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
        *,
        capacity: int = MAX_SESSIONS,
        relay: Relay | None = None,
    ) -> None:
        """`capacity`: jobs that are taken at once, those that wait for the engine among them. `relay`: whom split jobs
        may be passed on to, while that runs; None: nobody."""
        self._relay = relay
        self._way = way or PlainPeer()
        self._peer = peer
        self._version = version
        self._transport = transport
        self._topics = topics
        self._offers = {offer.model.model: offer for offer in offers}
        self._sessions: dict[tuple[str, bytes], _Open] = {}
        self._paces: dict[str, Pace] = {}
        self._workload = Workload(capacity, time.monotonic)
        self._run = secrets.token_hex(8)
        self._claims = Claims(peer, self._run, {offer.model.model: offer.model for offer in offers}, self._workload)
        self._changed = asyncio.Event()
        self._bad_frames, self._bad_offers = Dropping(log, "a frame"), Dropping(log, "an offer")
        self._too_many = Dropping(log, "a session")

    async def run(self) -> None:
        """Announce, serve, and say offline when cancelled."""
        subscription = self._transport.subscribe(self._topics.to_peer_from_all(self._peer))
        offered = [self._transport.subscribe(self._topics.shared_offers(model)) for model in self._offers]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._announce(), name="peer-announce")
                for each in offered:
                    group.create_task(self._read_offers(each), name="peer-offers")
                group.create_task(self._read(subscription, group), name="peer-read")
                group.create_task(self._resume_sessions(), name="peer-resume")
        finally:
            with contextlib.suppress(PeerLostError):
                self._publish_status("offline")

    async def _announce(self) -> None:
        """Keep the retained status true, also after the broker forgot it in a restart."""
        while True:
            self._changed.clear()
            with contextlib.suppress(PeerLostError):
                self._publish_status("online")
            await asyncio.sleep(CHANGED_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_S - CHANGED_S):
                    await self._changed.wait()

    def _publish_status(self, state: str) -> None:
        status = PeerStatus.model_validate(
            {
                "id": self._peer,
                "state": state,
                "version": self._version,
                "models": tuple(offer.told for offer in self._offers.values()),
                "queue": self._workload.num_jobs,
                "capacity": self._workload.capacity,
                "wait_s": round(self._workload.ahead_s, 3),
                "run": self._run,
                "links": self._relay.links() if self._relay else (),
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
            except PeerLostError:
                continue  # sessions have their lease for it to come back
            except WireError as error:
                self._bad_frames.note(_reason(error))

    async def _resume_sessions(self) -> None:
        num = self._transport.returns.num
        while True:
            num = await self._transport.returns.after(num)
            with contextlib.suppress(PeerLostError):
                self._publish_status("online")  # the will has said something else
            for each in self._sessions.values():
                each.session.resume()

    async def _read_offers(self, subscription: Subscription) -> None:
        while True:
            try:
                _, payload = await subscription.get()
                offered = self._way.read_offer(payload)
                claim = self._way.tell(self._claims.answer(offered))
                self._transport.publish(self._topics.to_device(offered.offer.device), claim)
            except PeerLostError:
                continue  # the device offers it again
            except WireError as error:
                self._bad_offers.note(_reason(error))

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
        if (busy := self._lack_of_room(device)) is not None:
            self._refuse(session, busy)
            return
        self._sessions[key] = _Open(session, admitted)
        if admitted.is_first:
            session.feed(data)
        group.create_task(self._serve(key, session, admitted.rights), name=f"peer-session-{device}")

    def _lack_of_room(self, device: str) -> BusyError | None:
        if len(self._sessions) >= MAX_SESSIONS:
            return BusyError(f"{len(self._sessions)} sessions are open on this peer; try again later")
        if sum(name == device for name, _ in self._sessions) >= MAX_DEVICE_SESSIONS:
            return TooManyRequestsError(f"'{device}' has {MAX_DEVICE_SESSIONS} sessions open on this peer; end some")
        return None

    def _refuse(self, session: Session, busy: BusyError) -> None:
        self._too_many.note(busy)
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
                with self._counted(key[0], job):
                    onward = self._relay.peers if self._relay else None
                    await Job(session, job, self._offers, Claim(key[0]), onward).run()
        except StoppedError as error:
            log.info("session ended device=%s reason=%s", key[0], error)
        except PeerLostError as error:
            log.info("session ended device=%s reason=%s", key[0], error)
            with contextlib.suppress(PeerLostError):  # it may hear us where we do not hear it, and need not wait then
                session.send(Failed(code=error.code, message=str(error)))
        except PassedOnError as error:
            log.warning("session failed device=%s reason=%s", key[0], error)
            code = PeerRefusedError.code if error.is_refusal else PeerError.code
            with contextlib.suppress(PeerLostError):
                session.send(Failed(code=code, message=str(error), peer=error.peer))
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

    @contextlib.contextmanager
    def _counted(self, device: str, job: Open) -> Iterator[None]:
        """The job is part of what is to do."""
        offer = self._offers.get(job.model)
        share = self._workload.begin(device, needs_of(offer.model, job)) if offer else None
        self._changed.set()
        try:
            yield
        finally:
            if share:
                self._workload.end(share)
            self._changed.set()

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

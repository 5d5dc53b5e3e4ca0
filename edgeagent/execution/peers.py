"""The device's side of the link: which peers there are, how good the way to them is, sessions with them."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from edgeagent.core.errors import (
    BusyError,
    ContextLengthError,
    DeadlineError,
    OutOfMemoryError,
    PassedOnError,
    PeerError,
    PeerLostError,
    PeerRefusedError,
    RequestError,
    TooManyRequestsError,
    WireError,
)
from edgeagent.core.link import LinkEstimate
from edgeagent.execution.dropping import Dropping
from edgeagent.execution.offering import Offers, Wanted
from edgeagent.execution.session import BlockArrived, Session
from edgeagent.execution.transport.base import Subscription, Transport
from edgeagent.execution.ways import DeviceWay, PlainDevice
from edgeagent.wire.frames import SESSION_BYTES, FrameChannel, read_label
from edgeagent.wire.goodput import Goodput
from edgeagent.wire.messages import LEASE_S, Accepted, Failed, OfferedModel, Open, PeerStatus, Stop
from edgeagent.wire.offers import JobClaim
from edgeagent.wire.topics import Topics
from edgeagent.wire.window import Pace

log = logging.getLogger(__name__)

BREAKER_S = 15.0
"""A peer that failed is left alone for so long: the next request must not wait for it."""
PROBE_BYTES = 256 * 1024
"""Traffic of less says little of a link's rate."""
MOST_PROBE_BYTES = 2**20
SAMPLE_S = 0.01
LINK_STALE_S = 120.0
"""A request that finds an older estimate has it measured again, for the next one."""
REFRESH_S = 5.0
MOST_MAKING_S = 300.0
"""A peer that says it needs longer to make layers ready is not waited for longer."""
MAX_PEERS = 256
MAX_MET = 4096
"""Variants that are remembered as offered by somebody."""
MAX_ANSWERS = 16
"""Answers to one opening that wait to be read; one is the peer's."""
REFUSALS = frozenset(
    each.code
    for each in (BusyError, ContextLengthError, DeadlineError, OutOfMemoryError, RequestError, TooManyRequestsError)
)
"""Codes of a peer that is well and does not take a job."""


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer as this device sees it. `broken_until` is on the monotonic clock."""

    status: PeerStatus
    link: LinkEstimate = field(default_factory=LinkEstimate)
    link_at: float = 0.0
    """When it was last measured, on the monotonic clock."""
    broken_until: float = 0.0
    was_online: bool = True
    """False: all that was ever heard of it is that it is away."""


class Peers:
    """Reads peers' statuses and demultiplexes their frames while `run` runs."""

    def __init__(self, transport: Transport, topics: Topics, device: str, way: DeviceWay | None = None) -> None:
        self._way = way or PlainDevice()
        self._transport = transport
        self._topics = topics
        self._device = device
        self._views: dict[str, PeerView] = {}
        self._met: set[str] = set()
        """Hashes of variants that some peer has offered."""
        self._sessions: dict[bytes, tuple[str, Session]] = {}
        """With whom each is."""
        self._openings: dict[bytes, asyncio.Queue[bytes]] = {}
        self._paces: dict[str, Pace] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}
        self._status_arrived = asyncio.Event()
        self._bad_frames, self._bad_statuses = Dropping(log, "a frame"), Dropping(log, "a peer's status")
        self._bad_answers = Dropping(log, "an answer to an opening")
        self._offers = Offers(transport, topics, device, self._way, self._rank)

    @property
    def has_met_any(self) -> bool:
        """Whether a status of some peer ever came, whatever it said."""
        return bool(self._views)

    def has_met(self, variant_sha256: str) -> bool:
        """Whether some peer ever offered that variant, or may have: one was never seen but away."""
        return variant_sha256 in self._met or any(not view.was_online for view in self._views.values())

    def views(self) -> list[PeerView]:
        """Peers that are online now; none without a connection."""
        if not self._transport.is_connected:
            return []
        return [v for v in self._views.values() if v.status.state == "online"]

    def making_s(self, peer: str, model: str, begin: int, end: int) -> float:
        """How long a job waits there for these layers, as that peer says, and as long as it is waited for."""
        view = self._views.get(peer)
        offered = next((m for m in view.status.models if m.model == model), None) if view else None
        return 0.0 if offered is None or (begin, end) in offered.loaded else min(offered.making_s, MOST_MAKING_S)

    def is_broken(self, view: PeerView) -> bool:
        return time.monotonic() < view.broken_until

    def trip(self, peer: str) -> None:
        """Open the breaker: the peer failed."""
        if view := self._views.get(peer):
            self._views[peer] = replace(view, broken_until=time.monotonic() + BREAKER_S)

    def note_link(
        self,
        peer: str,
        *,
        rtt_s: float | None = None,
        down_bytes_s: float | None = None,
        up_bytes_s: float | None = None,
    ) -> None:
        """Take a measurement into the estimate."""
        if view := self._views.get(peer):
            link = view.link
            link = link.with_rtt(rtt_s) if rtt_s is not None else link
            link = link.with_down(down_bytes_s) if down_bytes_s is not None else link
            link = link.with_up(up_bytes_s) if up_bytes_s is not None else link
            self._views[peer] = replace(view, link=link, link_at=time.monotonic())

    async def wait_for_peer(self, timeout_s: float) -> bool:
        """True as soon as some peer is online."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.views():
                    self._status_arrived.clear()
                    await self._status_arrived.wait()
        return bool(self.views())

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            await self._read_all()
        finally:
            refreshing = list(self._refreshing.values())
            for task in refreshing:
                task.cancel()
            await asyncio.gather(*refreshing, return_exceptions=True)

    async def _read_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            status = self._transport.subscribe(self._topics.all_peer_status())
            control = self._transport.subscribe(self._topics.to_device(self._device))
            bulk = self._transport.subscribe(self._topics.to_device_bulk(self._device), bulk=True)
            group.create_task(self._read_statuses(status), name="peer-statuses")
            group.create_task(self._read_frames(control), name="peer-control")
            group.create_task(self._read_frames(bulk), name="peer-bulk")
            group.create_task(self._resume_sessions(), name="peer-resume")

    async def _read_statuses(self, subscription: Subscription) -> None:
        while True:
            with contextlib.suppress(PeerLostError):
                self._note_status(*await subscription.get())

    def _note_status(self, topic: str, payload: bytes) -> None:
        try:
            status = self._way.read_status(self._topics.last_id(topic), payload)
        except WireError as error:
            self._bad_statuses.note(error)
            return
        if status.id not in self._views and not self._make_room():
            self._bad_statuses.note(f"{status.id} is one peer more than {MAX_PEERS}")
            return
        old = self._views.get(status.id)
        came_back = old is not None and old.status.state == "offline" and status.state == "online"
        if old is None or came_back:
            self._views[status.id] = PeerView(status, was_online=status.state == "online")
        else:
            self._views[status.id] = replace(old, status=status)
        if len(self._met) < MAX_MET:
            self._met |= {model.variant_sha256 for model in status.models if model.variant_sha256}
        self._status_arrived.set()

    def _make_room(self) -> bool:
        """For one peer more. One that is offline makes room: anybody can say that somebody is."""
        if len(self._views) < MAX_PEERS:
            return True
        gone = next((peer for peer, view in self._views.items() if view.status.state == "offline"), None)
        if gone is None:
            return False
        del self._views[gone]
        self._paces.pop(gone, None)
        return True

    async def _read_frames(self, subscription: Subscription) -> None:
        while True:
            try:
                _, payload = await subscription.get()
                self._feed(payload)
            except PeerLostError:
                continue  # sessions have their lease for it to come back
            except WireError as error:
                self._bad_frames.note(error)

    async def _resume_sessions(self) -> None:
        num = self._transport.returns.num
        while True:
            num = await self._transport.returns.after(num)
            for _, session in self._sessions.values():
                session.resume()

    def _feed(self, data: bytes) -> None:
        number = read_label(data).session
        if self._offers.take(number, data):
            return
        if known := self._sessions.get(number):
            known[1].feed(data)
        elif (answers := self._openings.get(number)) and answers.qsize() < MAX_ANSWERS:
            answers.put_nowait(data)

    def may(self, peer: str, plan: str, model: str) -> bool:
        """Whether that peer may be asked to do that."""
        return self._way.may(peer, plan, model)

    def holders(self, wanted: Wanted) -> list[str]:
        """Peers that could do that now, as far as this device knows."""
        return [
            view.status.id
            for view in self.views()
            if not self.is_broken(view)
            and any(_is_wanted(model, wanted) for model in view.status.models)
            and self.may(view.status.id, wanted.job, wanted.model)
        ]

    async def place(self, wanted: Wanted, chosen: str) -> str:
        """Who does it: of several that could, the one that claims to be done first; else the only one.

        Raises PeerRefusedError, PeerLostError.
        """
        holders = self.holders(wanted)
        claiming = {v.status.id: v.status.run for v in self.views() if v.status.capacity is not None}
        if len(holders) > 1 and claiming.keys() >= set(holders):
            return await self._offers.place(wanted, {peer: claiming[peer] for peer in holders})
        if chosen in holders or not holders:
            return chosen
        return holders[0]

    def _rank(self, claim: JobClaim) -> float | None:
        view = self._views.get(claim.peer)
        if claim.refused or view is None or self.is_broken(view) or not self._way.still_valid(claim.peer):
            return None
        return claim.finish_s + (view.link.rtt_s or 0.0)

    def review(self) -> None:
        """End the sessions with peers that were revoked meanwhile."""
        for peer, session in self._sessions.values():
            if not self._way.still_valid(peer):
                session.fail(PeerError(f"the credential of peer {peer} was revoked"))

    @contextlib.asynccontextmanager
    async def session(self, peer: str) -> AsyncIterator[Session]:
        """A new session with a peer, kept alive while inside. Raises PeerError when it cannot be opened."""
        topic, number = self._topics.to_peer(peer, self._device), secrets.token_bytes(SESSION_BYTES)
        answers = self._openings[number] = asyncio.Queue()
        try:
            channel = await self._way.open(peer, number, partial(self._exchange, topic, answers))
        finally:
            del self._openings[number]
        session = Session(
            channel,
            lambda data, bulk: self._transport.publish(topic, data, bulk=bulk),
            pace=self._paces.get(peer),
        )
        self._sessions[session.id] = peer, session
        while not answers.empty():  # what the peer said right behind its answer
            session.feed(answers.get_nowait())
        try:
            async with session.kept_alive():
                yield session
        finally:
            del self._sessions[session.id]
            if session.pace is not None and peer in self._views:
                self._paces[peer] = session.pace
            if session.rtt_s is not None:
                self.note_link(peer, rtt_s=session.rtt_s)
            if session.pace is not None and session.up_bytes >= PROBE_BYTES:  # less says little of the rate
                self.note_link(peer, up_bytes_s=session.pace.bytes_s)

    async def _exchange(
        self, topic: str, answers: asyncio.Queue[bytes], opening: bytes, read: Callable[[bytes], FrameChannel]
    ) -> FrameChannel:
        """See `ways.Exchange`. An answer that does not count is passed over: anybody may have sent it."""
        try:
            async with asyncio.timeout(LEASE_S):
                self._transport.publish(topic, opening)
                while True:
                    try:
                        return read(await answers.get())
                    except WireError as error:
                        self._bad_answers.note(error)
        except TimeoutError:
            raise PeerLostError(f"the other end did not open a session within {LEASE_S:g} s") from None

    async def measure_link(self, peer: str) -> LinkEstimate:
        """Fetch as much of a small block from the peer as tells how fast the link is. Raises PeerError.

        Whoever cancels it has what arrived until then taken for the link's goodput: a slow link is known to be slow. A
        peer that fails meanwhile says nothing of the link.
        """
        async with self.session(peer) as session:
            session.expect({0: MOST_PROBE_BYTES})
            session.send(Open(job="probe", probe_bytes=MOST_PROBE_BYTES))
            await until_accepted(session)
            goodput = Goodput(time.monotonic())
            try:
                await _watch(session, goodput)
            except asyncio.CancelledError:
                self._note_probe(peer, session, goodput)
                raise
            finally:
                with contextlib.suppress(PeerError):  # or it would go on with what is not here
                    session.send(Stop())
            self._note_probe(peer, session, goodput)
        view = self._views.get(peer)
        return view.link if view else LinkEstimate()

    def _note_probe(self, peer: str, session: Session, goodput: Goodput) -> None:
        now_s = time.monotonic()
        self.note_link(peer, down_bytes_s=goodput.bytes_s(now_s))
        if session.rtt_s is None:  # the answer to the first ping is behind all that
            self.note_link(peer, rtt_s=max(now_s - goodput.began_s, 1e-4))

    def refresh_link(self, view: PeerView) -> None:
        """Measure again beside everything else when the estimate is old: nothing waits for it."""
        peer = view.status.id
        is_due = time.monotonic() - view.link_at > LINK_STALE_S
        if not is_due or self.is_broken(view) or peer in self._refreshing:
            return
        self._refreshing[peer] = asyncio.create_task(self._refresh(peer), name="link-refresh")

    async def _refresh(self, peer: str) -> None:
        try:
            async with asyncio.timeout(REFRESH_S):
                await self.measure_link(peer)
        except (PeerError, TimeoutError) as error:
            log.info("link to peer %s not measured again: %s", peer, error or "it is slow")
        finally:
            del self._refreshing[peer]


def failure(failed: Failed) -> PeerError:
    """What a peer said, as an error: one that refuses is no broken one, nor one that passed a job on."""
    if failed.peer is not None:
        is_refusal = failed.code == PeerRefusedError.code
        return PassedOnError(f"the job was passed on: {failed.message}", failed.peer, is_refusal=is_refusal)
    if failed.code in REFUSALS:
        return PeerRefusedError(f"the peer refused: {failed.message}")
    return PeerError(f"the peer failed: {failed.message}")


def _is_wanted(model: OfferedModel, wanted: Wanted) -> bool:
    return (
        model.model == wanted.model
        and wanted.variant_sha256 in (None, model.variant_sha256)
        and wanted.exact_key in ("", model.exact_key)
    )


async def _watch(session: Session, goodput: Goodput) -> None:
    """Until enough is known of what comes, or all is here. Raises PeerError when the peer fails."""
    reading = asyncio.create_task(_until_block(session), name="probe-reading")
    try:
        while not (reading.done() or goodput.is_enough(time.monotonic())):
            await asyncio.wait({reading}, timeout=SAMPLE_S)
            goodput.note(time.monotonic(), session.receiver.num_arrived_bytes)
        if reading.done():
            reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _until_block(session: Session) -> None:
    """Wait for a block. Raises PeerError when the peer fails."""
    while not isinstance(arrived := await session.receive(), BlockArrived):
        if isinstance(arrived, Failed):
            raise PeerError(f"the peer failed: {arrived.message}")


async def until_accepted(session: Session, wait_s: float = LEASE_S) -> Accepted:
    """Wait for the verdict on an Open. Raises PeerError when it is a refusal, or does not come in `wait_s`."""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                match await session.receive():
                    case Accepted() as accepted:
                        return accepted
                    case Failed() as failed:
                        raise failure(failed)
                    case _:
                        continue
    except TimeoutError:
        raise PeerError(f"the peer did not begin within {wait_s:.3g} s") from None

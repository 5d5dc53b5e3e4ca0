"""Jobs between enrolled machines, over a broker that anybody may write on: who gets in, and what the broker sees."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from pathlib import Path

import pytest

from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.errors import PeerError, PeerLostError, PeerRefusedError
from edgeagent.execution.executors import Traffic, peer_session
from edgeagent.execution.peers import MAX_PEERS, Peers
from edgeagent.execution.session import Session
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.execution.trust import fleet as fleets
from edgeagent.execution.trust.membership import join
from edgeagent.execution.trust.sealed import SealedDevice, SealedPeer
from edgeagent.execution.trust.standing import Standing, follow_revocations, load_standing, publish_revocations
from edgeagent.execution.ways import DeviceWay, PeerWay, PlainDevice, PlainPeer
from edgeagent.wire.credentials import Role
from edgeagent.wire.messages import Failed, OfferedModel, Open, PeerStatus
from edgeagent.wire.sealing import Aead
from edgeagent.wire.topics import Topics

TOPICS = Topics("edgeagent/v1")
MODEL = OfferedModel(
    model="m", variant="Q4_1", variant_sha256="0" * 64, exact_key="", prefill_tok_s=1, decode_tok_s=1,
    context_tokens=1024, kv_bytes_per_token=0,
)  # fmt: skip


class Tapped(MemoryBroker):
    """A broker that remembers what passed, as whoever runs it could."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[tuple[str, bytes]] = []

    def deliver(self, topic: str, payload: bytes) -> None:
        self.passed.append((topic, payload))
        super().deliver(topic, payload)


class Town:
    """A fleet with a device `kitchen` and a peer `garage` that offers what nobody here runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Tapped()
        self.fleet = folder / "fleet"
        fleets.Fleet.init(self.fleet, int(time.time()))

    def member(self, name: str, role: Role, *, fleet: Path | None = None, days: int = 1, **bounds: object) -> Standing:
        kept = fleet or self.fleet
        bundle, _ = fleets.enroll(kept, name, role, int(time.time()), days, **bounds)  # type: ignore[arg-type]
        folder = self.folder / f"{name}-{role}-{kept.name}"
        join(folder, bundle, time.time())
        standing = load_standing(folder, time.time)
        assert standing is not None
        return standing

    def another_fleet(self) -> Path:
        fleets.Fleet.init(self.folder / "other", int(time.time()))
        return self.folder / "other"

    def revoke(self, name: str) -> Awaitable[None]:
        signed, _ = fleets.revoke(self.fleet, name, int(time.time()))
        return publish_revocations(self.broker.connect(), TOPICS, fleets.Fleet.open(self.fleet).key.id, signed)

    @contextlib.asynccontextmanager
    async def peer(self, way: PeerWay, standing: Standing | None = None) -> AsyncIterator[PeerService]:
        transport = self.broker.connect()
        offer = Offer(MODEL, contextlib.nullcontext)  # type: ignore[arg-type]
        service = PeerService("garage", "test", transport, TOPICS, [offer], way)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(background(service.run(), "peer"))
            if standing:
                follow = follow_revocations(transport, TOPICS, standing, service.review)
                await stack.enter_async_context(background(follow, "lists"))
            await asyncio.sleep(0.01)
            yield service

    @contextlib.asynccontextmanager
    async def device(self, way: DeviceWay, name: str = "kitchen") -> AsyncIterator[Peers]:
        peers = Peers(self.broker.connect(), TOPICS, name, way)
        async with background(peers.run(), "device"):
            await asyncio.sleep(0.01)
            yield peers


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def sealed_device(standing: Standing, aead: Aead = Aead.AES_256_GCM) -> SealedDevice:
    return SealedDevice(standing, aead)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


@pytest.mark.parametrize("aead", list(Aead))
def test_enrolled_machines_work_together_and_the_broker_reads_nothing(town: Town, aead: Aead) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        way = sealed_device(kitchen, aead)
        async with town.peer(SealedPeer(garage, time.time)), town.device(way) as peers:
            assert [view.status.models for view in peers.views()] == [(MODEL,)]
            link = await peers.measure_link("garage")
            assert link.rtt_s is not None
            assert link.down_bytes_s is not None

    play(scene)
    in_sessions = [payload for topic, payload in town.broker.passed if "/in/" in topic]
    assert len(in_sessions) > 8
    assert not any(b'"type"' in payload or b"probe" in payload for payload in in_sessions)
    status = json.loads(town.broker.retained[TOPICS.peer_status("garage")])
    assert (status["id"], status["state"]) == ("garage", "offline")


def test_status_is_readable_json_for_any_client(town: Town) -> None:
    way = SealedPeer(town.member("garage", "peer"), time.time)

    async def scene() -> None:
        async with town.peer(way):
            status = json.loads(town.broker.retained[TOPICS.peer_status("garage")])
            assert (status["state"], status["models"][0]["model"]) == ("online", "m")

    play(scene)


@pytest.mark.parametrize("case", ["plain peer", "plain device", "peer of another fleet", "device of another fleet"])
def test_who_is_not_of_the_fleet_is_not_worked_with(town: Town, case: str) -> None:
    other = town.another_fleet()
    at_peer = (
        PlainPeer()
        if case == "plain peer"
        else SealedPeer(
            town.member("garage", "peer", fleet=other if case == "peer of another fleet" else None), time.time
        )
    )
    at_device: DeviceWay = (
        PlainDevice()
        if case == "plain device"
        else sealed_device(town.member("kitchen", "device", fleet=other if case == "device of another fleet" else None))
    )

    async def scene() -> None:
        async with town.peer(at_peer), town.device(at_device) as peers:
            assert peers.views() == []

    play(scene)


def test_announcement_on_another_peers_topic_counts_for_neither(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)):
            stolen = town.broker.retained[TOPICS.peer_status("garage")].replace(b'"id":"garage"', b'"id":"cellar"')
            async with town.device(sealed_device(kitchen)) as peers:
                town.broker.deliver(TOPICS.peer_status("cellar"), stolen)
                await asyncio.sleep(0.01)
                assert [view.status.id for view in peers.views()] == ["garage"]

    play(scene)


def test_older_announcement_does_not_replace_a_newer_one(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")
    way = SealedPeer(garage, time.time)

    async def scene() -> None:
        async with town.peer(way) as service:
            old = town.broker.retained[TOPICS.peer_status("garage")]
            service._offers.clear()
            service._publish_status("online")
            async with town.device(sealed_device(kitchen)) as peers:
                town.broker.deliver(TOPICS.peer_status("garage"), old)
                await asyncio.sleep(0.01)
                assert [view.status.models for view in peers.views()] == [()]

    play(scene)


def test_session_opens_though_somebody_else_answers_first(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    class Meddling(Tapped):
        def deliver(self, topic: str, payload: bytes) -> None:
            if topic == TOPICS.to_peer("garage", "kitchen"):
                forged = payload[:3] + b"\x04" + payload[4:]  # an answer, by its label
                super().deliver(TOPICS.to_device("kitchen"), forged)
            super().deliver(topic, payload)

    town.broker = Meddling()

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)), town.device(sealed_device(kitchen)) as peers:
            assert (await peers.measure_link("garage")).down_bytes_s

    play(scene)


def lines_with(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


def test_flood_of_false_answers_is_one_line_in_the_log(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    class Meddling(Tapped):
        def deliver(self, topic: str, payload: bytes) -> None:
            if topic == TOPICS.to_peer("garage", "kitchen"):
                for _ in range(10):
                    super().deliver(TOPICS.to_device("kitchen"), payload[:3] + b"\x04" + payload[4:])
            super().deliver(topic, payload)

    town.broker = Meddling()

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)), town.device(sealed_device(kitchen)) as peers:
            for _ in range(3):
                await peers.measure_link("garage")

    play(scene)
    assert lines_with(caplog, "an answer to an opening") == 1


def test_flood_of_sessions_that_find_no_room_is_one_line_in_the_log_and_trips_no_breaker(
    town: Town, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeagent.application.peer.MAX_DEVICE_SESSIONS", 1)
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        async with (
            town.peer(SealedPeer(garage, time.time)),
            town.device(sealed_device(kitchen)) as peers,
            peers.session("garage"),
        ):
            for _ in range(5):
                with pytest.raises(PeerRefusedError, match="end some"):
                    await peers.measure_link("garage")
            assert not any(peers.is_broken(view) for view in peers.views())

    play(scene)
    assert lines_with(caplog, "dropped a session: 'kitchen' has 1 sessions open") == 1


def test_frames_that_come_twice_or_changed_change_nothing(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    class Meddling(Tapped):
        def deliver(self, topic: str, payload: bytes) -> None:
            super().deliver(topic, payload)
            if "/in/" in topic:
                super().deliver(topic, payload)
                super().deliver(topic, payload[:-1] + bytes([payload[-1] ^ 1]))

    town.broker = Meddling()

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)), town.device(sealed_device(kitchen)) as peers:
            assert (await peers.measure_link("garage")).down_bytes_s

    play(scene)


def test_whoever_replays_an_opening_gets_no_session(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)) as service, town.device(sealed_device(kitchen)) as peers:
            await peers.measure_link("garage")
            opening = next(p for t, p in town.broker.passed if t == TOPICS.to_peer("garage", "kitchen"))
            await asyncio.sleep(0.01)
            assert not service._sessions
            town.broker.deliver(TOPICS.to_peer("garage", "kitchen"), opening)
            await asyncio.sleep(0.01)
            assert not service._sessions

    play(scene)


def test_revoked_device_loses_its_session_and_gets_no_other(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        way = sealed_device(kitchen)  # it does not listen to lists
        async with town.peer(SealedPeer(garage, time.time), garage) as service, town.device(way) as peers:
            async with peers.session("garage"):
                assert service._sessions
                await town.revoke("kitchen")
                await until_none(service._sessions)
            with pytest.raises(PeerLostError, match="did not open"):
                async with peers.session("garage"):
                    pass

    play(scene)


def test_revoked_peer_is_left_and_not_asked(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)), town.device(sealed_device(kitchen)) as peers:
            lists = follow_revocations(town.broker.connect(), TOPICS, kitchen, peers.review)
            async with background(lists, "lists"), peers.session("garage") as session:
                assert peers.may("garage", "remote", "m")
                await town.revoke("garage")
                await asyncio.sleep(0.01)
                assert not peers.may("garage", "remote", "m")
                with pytest.raises(PeerError, match="revoked"):
                    await for_ever(session)

    play(scene)


async def for_ever(session: Session) -> None:
    while True:
        await session.receive()


async def until_none(sessions: Sized) -> None:
    async with asyncio.timeout(1):
        while len(sessions):  # noqa: ASYNC110  (it has no event)
            await asyncio.sleep(0.01)


def test_credentials_bound_what_is_asked_and_what_is_done(town: Town) -> None:
    garage = town.member("garage", "peer")
    kitchen = town.member("kitchen", "device", plans=("prefill",), models=("m",))

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)), town.device(sealed_device(kitchen)) as peers:
            allowed = [(p, m) for p in ("prefill", "remote") for m in ("m", "n") if peers.may("garage", p, m)]
            assert allowed == [("prefill", "m")]
            async with peers.session("garage") as session:
                session.send(Open(job="remote", model="m"))
                while not isinstance(told := await session.receive(), Failed):
                    pass
            assert told.code == "invalid_request_error"
            assert "does not allow remote" in told.message

    play(scene)


def test_device_whose_credential_expired_asks_nobody(town: Town) -> None:
    garage = town.member("garage", "peer")
    late = Standing(Path("/nonexistent"), town.member("kitchen", "device").membership, lambda: time.time() + 2 * 86_400)

    async def scene() -> None:
        async with town.peer(SealedPeer(garage, time.time)), town.device(sealed_device(late)) as peers:
            assert not peers.may("garage", "remote", "m")
            with pytest.raises(PeerError):
                async with peers.session("garage"):
                    pass

    play(scene)


def test_device_that_opens_no_job_does_not_keep_its_session(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")
    monkeypatch.setattr("edgeagent.application.peer.OPEN_S", 0.1)

    async def scene() -> None:
        way = sealed_device(kitchen)
        async with (
            town.peer(SealedPeer(garage, time.time)) as service,
            town.device(way) as peers,
            peers.session("garage"),
        ):  # keeps it alive, and says nothing
            assert service._sessions
            await until_none(service._sessions)

    play(scene)


def test_peer_that_opens_no_session_is_left_alone(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")
    monkeypatch.setattr("edgeagent.execution.peers.LEASE_S", 0.1)

    async def scene() -> None:
        async with town.device(sealed_device(kitchen)) as peers:
            async with town.peer(SealedPeer(garage, time.time)):
                pass  # it is known, and gone
            with pytest.raises(PeerLostError, match="did not open"):
                async with peer_session(peers, "garage", Traffic()):
                    pass
            assert [view.broken_until > time.monotonic() for view in peers._views.values()] == [True]

    play(scene)


def test_machine_that_is_no_device_here_goes_on_reading_statuses(town: Town) -> None:
    garage, attic = town.member("garage", "peer"), town.member("attic", "peer")

    async def scene() -> None:
        peers = Peers(town.broker.connect(), TOPICS, "attic", sealed_device(attic))
        async with town.peer(SealedPeer(garage, time.time)), background(peers.run(), "device"):
            await asyncio.sleep(0.01)
            assert not peers.has_met_any
            forged = PeerStatus(id="cellar", state="offline").model_dump_json(exclude_none=True).encode()
            town.broker.deliver(TOPICS.peer_status("cellar"), forged)
            await asyncio.sleep(0.01)
            assert peers.has_met_any

    play(scene)


def test_peers_that_somebody_calls_offline_leave_room_for_those_there_are(town: Town) -> None:
    garage, kitchen = town.member("garage", "peer"), town.member("kitchen", "device")

    async def scene() -> None:
        async with town.device(sealed_device(kitchen)) as peers:
            for number in range(MAX_PEERS):
                forged = PeerStatus(id=f"p{number}", state="offline").model_dump_json(exclude_none=True).encode()
                town.broker.deliver(TOPICS.peer_status(f"p{number}"), forged)
            await asyncio.sleep(0.01)
            async with town.peer(SealedPeer(garage, time.time)):
                assert [view.status.id for view in peers.views()] == ["garage"]

    play(scene)

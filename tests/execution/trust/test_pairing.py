"""Two machines pair over a broker: one shows a code, the other types it."""

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from edgeagent.core.errors import TrustError
from edgeagent.execution.transport.memory import MemoryBroker, MemoryTransport
from edgeagent.execution.trust import pairing
from edgeagent.execution.trust.fleet import Fleet, enroll
from edgeagent.execution.trust.identity import load_or_make_identity
from edgeagent.execution.trust.membership import IDENTITY_FILE, join, load_membership
from edgeagent.execution.trust.pairing import enroller, host, join_by_code, keep_home_fleet
from edgeagent.wire.credentials import Credential
from edgeagent.wire.pairing import PairingCode
from edgeagent.wire.topics import Topics

TOPICS = Topics("edgeagent/v1")
CODE = PairingCode(bytes(range(16)))


class Home:
    """A garage that keeps the fleet, a kitchen, and a broker between them."""

    def __init__(self, folder: Path) -> None:
        self.broker = MemoryBroker()
        self.fleet, self.garage, self.kitchen = folder / "fleet", folder / "garage", folder / "kitchen"
        keep_home_fleet(self.fleet, self.garage, "garage", time.time())

    async def show(self) -> object:
        return await host(self.broker.connect(), TOPICS, CODE, enroller(self.fleet, time.time), linger_s=0.05)

    async def type(self, code: PairingCode = CODE, transport: MemoryTransport | None = None) -> Credential:
        over = transport or self.broker.connect()
        return await join_by_code(over, TOPICS, code, self.kitchen, "kitchen", time.time)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(pairing, "REPEAT_S", 0.02)
    return Home(tmp_path)


def together(*work: Awaitable[object]) -> list[object]:
    async def gathered() -> list[object]:
        return list(await asyncio.gather(*work))

    return asyncio.run(gathered())


def test_paired_machines_trust_each_other(home: Home) -> None:
    together(home.show(), home.type())
    garage, kitchen = load_membership(home.garage), load_membership(home.kitchen)
    assert garage is not None
    assert kitchen is not None
    seen = garage.verify(kitchen.signed["device"], time.time(), "device")
    assert isinstance(seen, Credential)
    assert seen.name == "kitchen"
    assert isinstance(kitchen.verify(garage.signed["peer"], time.time(), "peer"), Credential)


def test_guest_asks_again_until_the_host_is_there(home: Home) -> None:
    async def late() -> None:
        await asyncio.sleep(0.1)
        await home.show()

    assert together(late(), home.type())


def test_guest_without_a_connection_waits_for_it(home: Home) -> None:
    async def scene() -> None:
        transport = home.broker.connect()
        typing = asyncio.create_task(home.type(transport=transport))
        await asyncio.sleep(0)
        transport.cut()
        await asyncio.sleep(0.1)
        transport.is_connected = True
        await asyncio.gather(home.show(), typing)

    asyncio.run(scene())


def test_wrong_code_enrols_nobody(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "VALID_S", 0.2)

    async def scene() -> list[object]:
        other = home.type(PairingCode(bytes(16)))
        return list(await asyncio.gather(home.show(), other, return_exceptions=True))

    assert [type(found) for found in asyncio.run(scene())] == [TrustError, TrustError]
    assert load_membership(home.kitchen) is None
    assert [issued.credential.name for issued in Fleet.open(home.fleet).file.issued] == ["garage"]


def test_broker_that_answers_by_itself_is_not_believed(home: Home) -> None:
    def lie(topic: str, payload: bytes) -> None:
        honest(topic, payload)
        if topic == TOPICS.pairing_request(CODE.topic):
            honest(TOPICS.pairing_answer(CODE.topic), payload)
            honest(TOPICS.pairing_answer(CODE.topic), b"rubbish")

    honest = home.broker.deliver
    home.broker.deliver = lie  # type: ignore[method-assign]
    together(home.show(), home.type())
    assert load_membership(home.kitchen) is not None


def test_home_fleet_is_made_once(home: Home) -> None:
    before = Fleet.open(home.fleet).file
    keep_home_fleet(home.fleet, home.garage, "garage", time.time())
    assert Fleet.open(home.fleet).file == before


def test_member_without_the_fleets_key_does_not_show_a_code(home: Home, tmp_path: Path) -> None:
    together(home.show(), home.type())
    with pytest.raises(TrustError, match="is not here"):
        keep_home_fleet(tmp_path / "none", home.kitchen, "kitchen", time.time())


def test_expired_peer_is_enrolled_again_before_it_shows_a_code(home: Home, tmp_path: Path) -> None:
    attic = tmp_path / "attic"
    identity = load_or_make_identity(attic / IDENTITY_FILE)
    now = int(time.time())
    bundle, _ = enroll(home.fleet, "attic", "peer", now, 1, asked_by=identity.public)
    join(attic, bundle, now)
    keep_home_fleet(home.fleet, attic, "attic", now + 2 * 86_400)
    assert len([i for i in Fleet.open(home.fleet).file.issued if i.credential.name == "attic"]) == 2

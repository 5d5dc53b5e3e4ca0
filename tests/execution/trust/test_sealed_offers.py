"""Offers between enrolled machines: whose claims count, whose offers are answered, and what the broker sees."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import pytest

from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer
from edgeagent.broker import background
from edgeagent.core.errors import PeerError, PeerRefusedError
from edgeagent.execution.offering import Wanted
from edgeagent.execution.trust.sealed import SealedPeer
from edgeagent.execution.trust.standing import Standing
from edgeagent.execution.ways import PlainDevice
from edgeagent.wire.notes import AnyNote
from edgeagent.wire.offers import JobClaim
from edgeagent.wire.signed_notes import sign_note
from tests.execution.trust.test_sealed import MODEL, TOPICS, Town, play, sealed_device, town

__all__ = ["town"]  # a fixture

WANTED = Wanted("remote", MODEL.model, MODEL.variant_sha256, "", 900, 64)


@contextlib.asynccontextmanager
async def peers_of(town: Town, *standings: tuple[str, Standing]) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for name, standing in standings:
            way = SealedPeer(standing, time.time)
            offer = Offer(MODEL, contextlib.nullcontext)  # type: ignore[arg-type]
            service = PeerService(name, "test", town.broker.connect(), TOPICS, [offer], way)
            await stack.enter_async_context(background(service.run(), name))
        await asyncio.sleep(0.01)
        yield


def test_members_offer_and_claim_and_the_broker_sees_sizes_only(town: Town) -> None:
    both = [(name, town.member(name, "peer")) for name in ("garage", "attic")]

    async def scene() -> None:
        async with peers_of(town, *both), town.device(sealed_device(town.member("kitchen", "device"))) as peers:
            assert await peers.place(WANTED, "garage") in ("garage", "attic")

    play(scene)
    offers = [payload for topic, payload in town.broker.passed if "/offers/" in topic]
    assert len(offers) == 2
    told = json.loads(offers[0][offers[0].index(b'{"type":"offer"') :])
    assert set(told) == {"type", "number", "device", "job", "runs", "model", "variant_sha256", "exact_key",
                         "prompt_tokens", "answer_tokens"}  # fmt: skip


def test_device_whose_credential_does_not_allow_it_is_refused(town: Town) -> None:
    both = [(name, town.member(name, "peer")) for name in ("garage", "attic")]
    bound = town.member("kitchen", "device", plans=("prefill",))

    class Bold(type(sealed_device(bound))):  # type: ignore[misc]
        """Asks for what it may not."""

        def may(self, peer: str, plan: str, model: str) -> bool:
            return True

    async def scene() -> None:
        way = Bold(bound, sealed_device(bound)._aead)
        async with peers_of(town, *both), town.device(way) as peers:
            with pytest.raises(PeerRefusedError):
                await peers.place(WANTED, "garage")

    play(scene)


def test_offer_of_nobody_is_not_answered(town: Town) -> None:
    both = [(name, town.member(name, "peer")) for name in ("garage", "attic")]

    async def scene() -> None:
        async with peers_of(town, *both), town.device(sealed_device(town.member("kitchen", "device"))) as peers:
            peers._offers._way = PlainDevice()
            with pytest.raises(PeerError, match="no peer answered"):
                await peers.place(WANTED, "garage")

    play(scene)


class Claiming(SealedPeer):
    """Claims in the name of another member of the fleet, and at once."""

    def __init__(self, standing: Standing, other: Standing) -> None:
        super().__init__(standing, time.time)
        self._other = other

    def tell(self, note: AnyNote) -> bytes:
        assert isinstance(note, JobClaim)
        return sign_note(self._other.party("peer"), note.model_copy(update={"peer": "cellar", "finish_s": 0.0}))


@pytest.mark.parametrize("shows_status", [False, True])
def test_claim_of_a_peer_that_may_not_have_the_job_does_not_count(town: Town, *, shows_status: bool) -> None:
    """An enrolled one, but not one that this device knows, or one whose credential does not allow that plan."""
    both = [(name, town.member(name, "peer")) for name in ("garage", "attic")]
    cellar = town.member("cellar", "peer", plans=("prefill",))

    async def scene() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if shows_status:
                await stack.enter_async_context(peers_of(town, ("cellar", cellar)))
            for name, standing in both:
                offer = Offer(MODEL, contextlib.nullcontext)  # type: ignore[arg-type]
                way = Claiming(standing, cellar)
                service = PeerService(name, "test", town.broker.connect(), TOPICS, [offer], way)
                await stack.enter_async_context(background(service.run(), name))
            await asyncio.sleep(0.01)
            peers = await stack.enter_async_context(town.device(sealed_device(town.member("kitchen", "device"))))
            assert len(peers.views()) == 2 + shows_status
            with pytest.raises(PeerError):
                await peers.place(WANTED, "garage")

    play(scene)

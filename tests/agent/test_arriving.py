"""Before the door: a held request waits within bounds of number and time, and its model stays while it is inside."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import cast

import pytest

from edgeagent.agent.arriving import Door, claim_of, left_s
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.errors import BusyError, TooManyRequestsError
from edgeagent.core.hardware import Rates
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.pool import ModelPool
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant


class Held:
    """Holds every request until it is `let_go`, or for as long as the request can wait."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def admit(self, wait_s: float | None = None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self.let_go.wait()

    def reasons_since(self, at_s: float) -> tuple[str, ...]:
        return (f"held since {at_s:g}",)


class OneModel:
    """What a door needs of a pool, around one resident that is never loaded."""

    def __init__(self, stored: StoredVariant) -> None:
        settings = LoadSettings(
            str(stored.path), stored.sha256, 64, "q8_0", flash_attention=True, threads=1, extra_buffers=False,
            chunk_tokens=64,
        )  # fmt: skip
        rates = Rates(threads=1, prefill_tok_s=1.0, decode_tok_s=1.0)
        self.resident = Resident(stored.card, stored.variant, "", rates, 0, LocalModel(settings), used_at=0.0)
        self.waits: list[float | None] = []

    def has(self, model_id: str) -> bool:
        return model_id == "known"

    @contextlib.asynccontextmanager
    async def lease(self, model_id: str, *, wait_s: float | None = None) -> AsyncIterator[Resident]:
        assert model_id in ("known", "default")
        self.waits.append(wait_s)
        self.resident.num_users += 1
        yield self.resident
        self.resident.num_users -= 1


def asked(**wish: object) -> ChatRequest:
    extension = Extension.model_validate(wish)
    return ChatRequest(messages=(Message(role="user", content="Hello"),), model="unknown", edgeagent=extension)


async def enter(door: Door, user: str, **wish: object) -> int:
    """Users of the model while this request is inside."""
    request = asked(**wish)
    async with door.entered(request, claim_of(request, user, time.monotonic())) as (resident, claim):
        assert claim.since_s is not None
        assert resident.local.admission.num_requests > 0
        return resident.num_users


def test_no_more_requests_are_held_than_may_wait_and_no_more_of_one_user(smollm2: StoredVariant) -> None:
    async def body() -> None:
        governor, pool = Held(), OneModel(smollm2)
        door = Door(cast("ModelPool", pool), governor, default_model="default", queue=3, per_user=2)
        held = [asyncio.create_task(enter(door, user)) for user in ("ada", "ada", "bob")]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequestsError):
            await enter(door, "ada")
        with pytest.raises(BusyError):
            await enter(door, "cleo")
        governor.let_go.set()
        assert min(await asyncio.gather(*held)) >= 1
        assert await enter(door, "cleo") == 1
        assert pool.resident.num_users == 0
        assert pool.resident.local.admission.num_requests == 0

    asyncio.run(body())


def test_hold_and_the_wait_for_memory_end_with_the_deadline(smollm2: StoredVariant) -> None:
    async def body() -> None:
        pool = OneModel(smollm2)
        door = Door(cast("ModelPool", pool), Held(), default_model="default", queue=3, per_user=3)
        assert await enter(door, "ada", deadline_s=0.1) == 1
        assert pool.waits == [0.0]

    asyncio.run(body())


def test_request_without_a_deadline_waits_as_configured() -> None:
    assert left_s(claim_of(asked(), "ada", 5.0)) is None
    assert left_s(claim_of(asked(deadline_s=1.0), "ada", time.monotonic() - 9.0)) == 0.0

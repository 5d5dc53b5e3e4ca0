"""Two real models, side by side or one after the other, under one budget of memory."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import BusyError, OutOfMemoryError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.hardware import Profile, Rates
from edgeagent.model.limits import Limits
from edgeagent.model.machine import machine_of
from edgeagent.model.pool import ModelPool
from edgeagent.model.rooming import holding_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ProbeModel
from tests.model.test_pool import profile_of

MB = 10**6
SMALL, LARGE = "smollm2-135m-instruct", "gemma-3-270m"
RATES = Rates(prefill_tok_s=100, decode_tok_s=50, threads=1)
ONE = EngineConfig(sequences=1)
BOTH_FIT, ONE_FITS = 900 * MB, 480 * MB
"""With 512 tokens of context the small one is forecast to take 0.18 GB, the large one 0.38 GB."""


@pytest.fixture(scope="module")
def store(embedded_store: ModelStore, smollm2: StoredVariant) -> ModelStore:
    del smollm2
    asyncio.run(embedded_store.ensure(LARGE))
    return embedded_store


def limits(budget_bytes: int | None, memory_bytes: int = 4000 * MB) -> Limits:
    return Limits(memory_bytes, 600, 512, "q8_0", tpot_s=600, budget_bytes=budget_bytes)


@contextlib.asynccontextmanager
async def pool_of(store: ModelStore, allowed: Limits, config: EngineConfig = ONE) -> AsyncIterator[ModelPool]:
    keys = [f"{card.id}/{variant.name}" for card in store.registry.cards for variant in card.variants]
    profile = profile_of().model_copy(update={"rates": dict.fromkeys(keys, RATES)})

    async def read_profile(probe: ProbeModel | None) -> Profile:
        del probe
        return profile

    pool = ModelPool(store, config, read_profile, lambda: allowed, machine_of)
    try:
        yield pool
    finally:
        await pool.close()


def test_two_models_stay_side_by_side_where_both_fit(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(BOTH_FIT)) as pool:
            small, large = await pool.get(SMALL), await pool.get(LARGE)
            await small.whole.facts()
            await large.whole.facts()
            assert await small.local.count(["one two"]) == [2]
            assert small.pid != large.pid
            assert small.is_loaded
            for resident in (small, large):
                held = holding_of(resident)
                assert 0.5 * resident.memory_bytes < held.resident_bytes < 1.1 * resident.memory_bytes
                bounds = Path(f"/proc/{resident.pid}/limits").read_text(encoding="ascii")  # noqa: ASYNC240
                rows = {row[:26].strip(): row[26:47].strip() for row in bounds.splitlines()}
                assert resident.memory_bytes // 4 < int(rows["Max data size"]) < int(rows["Max address space"])
                assert resident.pid is not None
                assert os.getpriority(os.PRIO_PROCESS, resident.pid) == min(19, os.nice(0) + ONE.nice)

    asyncio.run(body())


def test_idle_model_makes_room_and_comes_back(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(ONE_FITS)) as pool:
            async with pool.lease(SMALL) as small:
                await small.whole.facts()
                first = small.pid
            async with pool.lease(LARGE) as large:
                await large.whole.facts()
                assert not small.is_loaded
                assert first is not None
                with pytest.raises(ProcessLookupError):
                    os.kill(first, 0)
            async with pool.lease(SMALL) as again:
                await again.whole.facts()
                assert again is small
                assert not large.is_loaded

    asyncio.run(body())


def test_model_in_use_stays_and_the_other_is_told_who_holds_what(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(ONE_FITS)) as pool:
            async with pool.lease(SMALL) as small, small.local.lease():
                await small.whole.facts()
                with pytest.raises(BusyError, match=f"{LARGE} needs .* beside {SMALL} .* MB in use; try again"):
                    await pool.get(LARGE, wait_s=0.3)
                assert small.is_loaded
                waiting = asyncio.create_task(pool.get(LARGE, wait_s=600.0))
                await asyncio.sleep(0.3)
                assert not waiting.done()
                assert await pool.get(SMALL) is small  # waiting for room keeps nobody else waiting
            assert (await waiting).is_promised
            assert not small.is_loaded

    asyncio.run(body())


def test_model_that_never_fits_is_refused_at_once(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(ONE_FITS, memory_bytes=250 * MB)) as pool:
            await pool.get(SMALL)
            with pytest.raises(OutOfMemoryError, match=LARGE):
                await pool.get(LARGE)

    asyncio.run(body())


def test_idle_models_end_when_asked_to_and_those_in_use_do_not(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(BOTH_FIT)) as pool:
            small = await pool.get(SMALL)
            await small.whole.facts()
            async with small.local.lease():
                await pool.release_idle(0.0)
                assert small.is_loaded
            await asyncio.sleep(0.01)
            await pool.release_idle(0.0)
            assert not small.is_loaded
            assert not small.is_promised

    asyncio.run(body())


def test_draining_waits_for_the_request_under_way_and_takes_no_other(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(BOTH_FIT)) as pool:
            small = await pool.get(SMALL)
            async with small.local.lease():
                await small.whole.facts()
                draining = asyncio.create_task(pool.drain(600.0))
                await asyncio.sleep(0.1)
                with pytest.raises(BusyError, match="stopping"):
                    await pool.get(SMALL)
                assert await small.local.count(["one two"]) == [2]
                assert not draining.done()
            await draining
            assert not small.is_loaded

    asyncio.run(body())


@pytest.mark.parametrize("memory_bytes", [4000 * MB, 219 * MB, 199 * MB])
def test_sequences_give_way_before_the_context_does(store: ModelStore, memory_bytes: int) -> None:
    async def body() -> tuple[int, int, int, int]:
        allowed = Limits(memory_bytes, 600, 1024, "q8_0", tpot_s=600)
        async with pool_of(store, allowed, EngineConfig(sequences=4)) as pool:
            small = await pool.get(SMALL)
            settings = small.local.settings
            return settings.sequences, settings.context_tokens, small.memory_bytes, small.single_bytes

    sequences, context, memory, single = asyncio.run(body())
    assert context == 1024
    assert memory <= memory_bytes
    assert (memory == single) is (sequences == 1)
    assert sequences == {4000: 4, 219: 3, 199: 1}[memory_bytes // MB]


def test_four_sequences_compute_within_the_limits_of_their_worker(store: ModelStore) -> None:
    async def body() -> None:
        allowed = Limits(4000 * MB, 600, 4096, "q8_0", tpot_s=600)
        async with pool_of(store, allowed, EngineConfig(sequences=4)) as pool:
            small = await pool.get(SMALL)
            assert small.local.settings.sequences == 4
            prompt = tuple(await small.local.encode([{"role": "user", "content": "Name a colour. " * 40}]))

            async def answer(number: int) -> int:
                generation = Generation(str(number), "", prompt[number:], Sampling(), 4)
                return len([e async for e in small.whole.generate(generation) if isinstance(e, TokenStep)])

            assert await asyncio.gather(*(answer(number) for number in range(4))) == [4, 4, 4, 4]
            held = holding_of(small)
            assert 0.8 * small.memory_bytes < held.resident_bytes < 1.1 * small.memory_bytes

    asyncio.run(body())


def test_model_that_lost_its_worker_while_idle_waits_for_room_before_it_is_loaded_again(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(ONE_FITS)) as pool, pool.lease(SMALL) as small:
            await small.whole.facts()
            await small.unload()  # as an idle one is, between the lease of one request and a call of the next
            async with pool.lease(LARGE) as large:
                await large.whole.facts()
                coming_back = asyncio.create_task(small.local.count(["one two"]))
                await asyncio.sleep(0.5)
                assert not coming_back.done()
                assert (small.is_loaded, large.is_loaded) == (False, True)
            assert await coming_back == [2]
            assert (small.is_loaded, large.is_loaded) == (True, False)

    asyncio.run(body())


def test_two_models_that_need_each_others_room_end_with_an_error_and_go_on(store: ModelStore) -> None:
    async def body() -> None:
        config = EngineConfig(sequences=1, room_wait_s=0.5)
        async with pool_of(store, limits(ONE_FITS), config) as pool:
            async with pool.lease(SMALL) as small:
                await small.unload()
                async with pool.lease(LARGE) as large:
                    with pytest.raises(BusyError, match=f"{SMALL} needs"):
                        await small.whole.facts()
                    await large.whole.facts()
            async with pool.lease(SMALL) as again:
                assert await again.local.count(["one two"]) == [2]

    asyncio.run(body())


def test_choice_in_use_ends_with_its_users_and_the_next_request_has_another(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(BOTH_FIT)) as pool:
            async with pool.lease(SMALL) as old:
                await old.whole.facts()
                await pool.rechoose()
                await pool.rechoose()
                async with pool.lease(SMALL) as new:
                    assert new is not old
                    assert [new.is_retired, old.is_retired] == [False, True]
                    assert await new.local.count(["one two"]) == await old.local.count(["one two"]) == [2]
                    assert pool.residents == [new, old]
                assert old.is_loaded
            assert not old.is_loaded
            assert pool.residents == [new]
            assert new.is_loaded

    asyncio.run(body())


def test_successor_that_does_not_fit_beside_waits_for_the_answers_under_way(store: ModelStore) -> None:
    async def body() -> None:
        async with pool_of(store, limits(200 * MB)) as pool:
            async with pool.lease(SMALL) as old:
                await old.whole.facts()
                await pool.rechoose()
                waiting = asyncio.create_task(pool.get(SMALL, wait_s=600.0))
                await asyncio.sleep(0.5)
                assert not waiting.done()
                assert await old.local.count(["one two"]) == [2]
            new = await waiting
            assert new is not old
            assert not old.is_loaded

    asyncio.run(body())

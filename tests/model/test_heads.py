"""A head in the pool: found where the whole is not here or not admitted, forecast, tried, given up for another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import ModelFileError, ModelNotFoundError, OutOfMemoryError, RequestError
from edgeagent.core.hardware import Profile
from edgeagent.core.stages import Cut
from edgeagent.execution.supervisor import Worker
from edgeagent.model import overlay
from edgeagent.model.footprint import Setup, predict, weigh
from edgeagent.model.limits import Limits
from edgeagent.model.locks import Hold, unused
from edgeagent.model.machine import machine_of
from edgeagent.model.pool import ModelPool
from edgeagent.model.registry import Registry
from edgeagent.model.slicing import slice_variant
from edgeagent.model.stage_footprint import longest_context, predict_stage
from edgeagent.model.standing_in import StandingIn
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ProbeModel
from tests.model.machines import registry
from tests.model.test_pool import profile_of

MODEL, K, LAYERS = "smollm2-135m-instruct", 8, 30
MIB, MB = 2**20, 10**6
NOTHING_REPACKED: frozenset[str] = frozenset()

# VmHWM of workers after 240 prompt tokens and 16 drafts: llama-cpp-python 0.3.36, x86-64 without extra buffers;
# contexts of 1,024 tokens of q8_0, of an output head 256.
MEASURED_MIB = {
    ("gemma-3-270m", "Q4_K_M", Cut(begin=0, end=6, layers=18), 207_552_384, 1024): 307.8,
    ("gemma-3-270m", "Q4_K_M", Cut(begin=18, end=18, layers=18), 188_768_416, 256): 322.5,
}


@pytest.mark.parametrize(("case", "measured"), MEASURED_MIB.items())
def test_forecast_is_near_what_was_measured(case: tuple[str, str, Cut, int, int], measured: float) -> None:
    model_id, file_type, cut, file_bytes, context = case
    shape = registry().card(model_id).architecture
    assert shape is not None
    setup = Setup(context, "q8_0", flash_attention=True, chunk_tokens=64)
    found = predict_stage(shape, file_type, cut, file_bytes, NOTHING_REPACKED, setup)
    assert found.total_bytes / MIB == pytest.approx(measured, rel=0.04)


def test_stages_of_a_model_share_its_layers_between_them() -> None:
    shape = registry().card(MODEL).architecture
    assert shape is not None
    setup = Setup(1024, "q8_0", flash_attention=True, chunk_tokens=64)
    whole = weigh(shape, "Q4_0", frozenset({"Q4_0"}))
    assert whole is not None
    head, tail = (
        predict_stage(shape, "Q4_0", cut, 50 * MB, frozenset({"Q4_0"}), setup)
        for cut in (Cut(begin=0, end=8, layers=30), Cut(begin=8, end=30, layers=30))
    )
    together = predict(shape, whole, setup)
    assert head.copy_bytes + tail.copy_bytes == together.copy_bytes
    assert head.cache_bytes + tail.cache_bytes == together.cache_bytes * 31 // 30  # one layer more, never computed
    assert head.compute_bytes < tail.compute_bytes


def test_context_takes_what_is_left() -> None:
    shape, cut = registry().card(MODEL).architecture, Cut(begin=0, end=8, layers=30)
    assert shape is not None
    setup = Setup(512, "q8_0", flash_attention=True, chunk_tokens=64)
    about = shape, "Q4_1", cut, 47 * MB, NOTHING_REPACKED
    for room in (120 * MB, 140 * MB):
        tokens = longest_context(*about, setup, room)
        taken = predict_stage(*about, Setup(tokens, "q8_0", flash_attention=True, chunk_tokens=64)).total_bytes
        assert taken == pytest.approx(room, rel=0.001)


@pytest.fixture(scope="module")
def head_only(embedded_store: ModelStore, smollm2: StoredVariant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a head and the output head of SmolLM2, and nothing else of it."""
    folder = tmp_path_factory.mktemp("models")
    own = store_in(folder, embedded_store)
    link(smollm2, own)

    async def slices() -> None:
        for cut in ((0, K), (LAYERS, LAYERS)):
            await slice_variant(own, MODEL, *cut, lambda: Worker.spawn("llama"), base=smollm2.variant.name)

    asyncio.run(slices())
    (folder / MODEL / smollm2.path.name).unlink()
    return folder


def store_in(folder: Path, like: ModelStore) -> ModelStore:
    cards = Registry(like.registry.shipped(card.id) for card in like.registry.cards)
    return ModelStore(folder, overlay.lay_over(cards, folder), like._fetcher)


def link(stored: StoredVariant, store: ModelStore) -> None:
    target = store.path(stored.card, stored.variant)
    target.parent.mkdir(exist_ok=True)
    target.symlink_to(stored.path)


def with_whole(head_only: Path, like: ModelStore, smollm2: StoredVariant, folder: Path) -> ModelStore:
    """A store in `folder` with the whole beside the stages of `head_only`."""
    store = store_in(copied(head_only, folder), like)
    link(smollm2, store)
    return store


@contextlib.asynccontextmanager
async def pool_of(store: ModelStore, memory_bytes: int, *, draws_here: bool = False) -> AsyncIterator[ModelPool]:
    async def read_profile(probe: ProbeModel | None) -> Profile:
        del probe
        return profile_of()

    limits = Limits(memory_bytes, 600, 512, "q8_0", tpot_s=600, budget_bytes=memory_bytes)
    config = EngineConfig(sequences=1, threads=1)
    pool = ModelPool(store, config, read_profile, lambda: limits, machine_of, draws_here=draws_here)
    try:
        yield pool
    finally:
        await pool.close()


def test_head_is_leased_where_the_whole_is_not_here(head_only: Path, embedded_store: ModelStore) -> None:
    store = store_in(head_only, embedded_store)

    async def body() -> None:
        async with pool_of(store, 600 * MB, draws_here=True) as pool:
            assert pool.has(MODEL)
            assert not pool.has_whole(MODEL)
            async with pool.lease(MODEL) as resident:
                assert resident.head is not None
                assert (resident.head.k, resident.variant.name) == (K, "Q4_1")
                assert "no file of" in resident.head.why
                assert resident.output is not None
                assert min(resident.head.batch_rows, resident.output.batch_rows or 0) >= 1
                assert resident.rates.decode_tok_s > 1
                assert len(resident.pids) == 2
                assert len(await resident.local.encode([{"role": "user", "content": "Name a colour."}])) > 4
                with pytest.raises(RequestError, match="only the first layers"):
                    _ = resident.whole
                peaks = [peak_bytes(pid) for pid in resident.pids]
                assert sum(peaks) == pytest.approx(resident.memory_bytes, rel=0.1)
                await resident.unload()
                assert not resident.pids
                with pytest.raises(ModelNotFoundError, match="no other model is here"):
                    async with StandingIn(pool, store.registry, MODEL).lease(resident):
                        pass

    asyncio.run(body())


class Raced(ModelStore):
    """Another process removes the output head's file just before it is held."""

    def hold(self, stored: StoredVariant) -> Hold:
        if stored.variant.name.endswith(f"-{LAYERS}to{LAYERS}"):
            stored.path.unlink()
        return super().hold(stored)


def test_head_whose_output_head_is_gone_is_not_kept_from_eviction(
    head_only: Path, embedded_store: ModelStore, tmp_path: Path
) -> None:
    store = store_in(copied(head_only, tmp_path), embedded_store)
    raced = Raced(tmp_path, store.registry, store._fetcher)
    [head] = (tmp_path / MODEL).glob(f"*-0to{K}.gguf")

    async def body() -> None:
        async with pool_of(raced, 600 * MB, draws_here=True) as pool:
            with pytest.raises(ModelFileError, match="cannot be opened"):
                async with pool.lease(MODEL):
                    pass
            with unused(head) as is_unused:
                assert is_unused

    asyncio.run(body())


def copied(folder: Path, target: Path) -> Path:
    """The same files by other names."""
    (target / MODEL).mkdir()
    for file in (folder / MODEL).iterdir():
        if file.is_file():
            (target / MODEL / file.name).symlink_to(file)
    return target


def test_model_whose_file_is_broken_is_passed_over_for_one_that_can_stand_in(
    head_only: Path, embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store = store_in(tmp_path, embedded_store)
    link(smollm2, store)
    broken, variant = store.registry.variant("gemma-3-270m", "Q4_K_M")
    path = store.path(broken, variant)
    path.parent.mkdir()
    path.write_bytes(b"no model")

    async def body() -> None:
        async with pool_of(store_in(head_only, embedded_store), 600 * MB) as other, other.lease(MODEL) as lost:
            lost.card = store.registry.card("qwen2.5-0.5b-instruct")
            await lost.unload()
            async with (
                pool_of(store, 600 * MB) as pool,
                StandingIn(pool, store.registry, broken.id).lease(lost) as found,
            ):
                assert (found.card.id, found.head) == (MODEL, None)

    asyncio.run(body())


def test_whole_model_has_its_output_head_beside_it_where_no_text_may_leave_and_memory_allows(
    head_only: Path, embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store = with_whole(head_only, embedded_store, smollm2, tmp_path)

    async def body() -> None:
        async with pool_of(store, 600 * MB) as pool, pool.lease(MODEL) as resident:
            assert (resident.head, resident.output, resident.no_output) == (None, None, "")
            alone = resident.memory_bytes
        async with pool_of(store, 600 * MB, draws_here=True) as pool, pool.lease(MODEL) as resident:
            assert resident.head is None
            assert resident.output is not None
            assert (resident.output.batch_rows or 0) >= 1
            assert resident.memory_bytes == alone + resident.output.num_bytes
            [whole, output] = resident.pids
            assert (whole, output) == (resident.local.pid, resident.output.stage.pid)
            assert peak_bytes(output) == pytest.approx(resident.output.num_bytes, rel=0.15)
        async with pool_of(store, alone + 20 * MB, draws_here=True) as pool, pool.lease(MODEL) as resident:
            assert (resident.head, resident.output, resident.memory_bytes) == (None, None, alone)
            assert "output head needs" in resident.no_output

    asyncio.run(body())


def test_output_head_that_is_broken_costs_the_whole_model_nothing_but_it(
    head_only: Path, embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store = with_whole(head_only, embedded_store, smollm2, tmp_path)
    [path] = (tmp_path / MODEL).glob("*-30to30.gguf")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-100])

    async def body() -> None:
        async with pool_of(store, 600 * MB, draws_here=True) as pool, pool.lease(MODEL) as resident:
            assert (resident.head, resident.output) == (None, None)
            assert "cannot be used" in resident.no_output

    asyncio.run(body())


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_head_is_leased_where_memory_refuses_the_whole_and_the_whole_where_it_does_not(
    head_only: Path, embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store = with_whole(head_only, embedded_store, smollm2, tmp_path)

    async def chosen(memory_bytes: int) -> str | None:
        async with pool_of(store, memory_bytes) as pool, pool.lease(MODEL) as resident:
            assert resident.memory_bytes <= memory_bytes
            return resident.head.why if resident.head else None

    async def refused() -> None:
        async with pool_of(store, 100 * MB) as pool, pool.lease(MODEL):
            pass

    assert asyncio.run(chosen(400 * MB)) is None
    assert "no variant of" in (asyncio.run(chosen(150 * MB)) or "")
    with pytest.raises(OutOfMemoryError, match="its head Q4_1-0to8 needs"):
        asyncio.run(refused())

"""The pool applies a selection: the worker it starts runs as chosen, within the memory that may be used."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.core.config import EngineConfig
from edgeagent.core.errors import ModelNotFoundError
from edgeagent.core.generation import Generation, Sampling
from edgeagent.core.hardware import Cpu, EngineFacts, MemoryFacts, Profile, Rates, Storage, Verdict
from edgeagent.core.invariance import Invariance
from edgeagent.model.limits import Limits
from edgeagent.model.machine import machine_of
from edgeagent.model.pool import ModelPool
from edgeagent.model.resident import Resident
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.capability import ENGINE, ProbeModel
from edgeagent.resource.invariance import usual_evaluation
from edgeagent.resource.probes.cpu import read_cpu
from edgeagent.resource.probes.sysroot import Sysroot

KEY = "smollm2-135m-instruct/Q4_1"


def profile_of(*, flash_attention: bool = True) -> Profile:
    """This CPU, with rates as if they had been measured; extra buffers off, as on CPUs where they crash."""
    safe = {"extra_buffers": False, "flash_attention": flash_attention}
    return Profile(
        fingerprint="",
        board="",
        cpu=Cpu(model="", arch="x86_64", cores=1, features=read_cpu(Sysroot()).features),
        memory=MemoryFacts(total_bytes=0, available_bytes=0),
        storage=Storage(path="/", free_bytes=0),
        engines=(
            EngineFacts(name=ENGINE, version="", usable=True, probe=Verdict(verdict="ok", reason="", settings=safe)),
        ),
        rates={KEY: Rates(prefill_tok_s=100, decode_tok_s=50, threads=1)},
    )


async def first(store: ModelStore, profile: Profile, limits: Limits) -> tuple[Resident, int]:
    """The resident chosen, and its worker's peak after an answer."""

    async def read_profile(probe: ProbeModel | None) -> Profile:
        del probe
        return profile

    pool = ModelPool(store, EngineConfig(), read_profile, lambda: limits, machine_of)
    try:
        resident = await pool.get("smollm2-135m-instruct")
        prompt = tuple(await resident.local.encode([{"role": "user", "content": "Name a colour. " * 60}]))
        generation = Generation("one", "", prompt, Sampling(), 4)
        assert [event async for event in resident.whole.generate(generation)]
        status = Path(f"/proc/{resident.local.pid}/status").read_text(encoding="utf-8")  # noqa: ASYNC240
        peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
        return resident, peak
    finally:
        await pool.close()


def only_first(store: ModelStore, smollm2: StoredVariant, folder: Path) -> ModelStore:
    """A store that has Q4_1 alone, whatever else is kept for tests."""
    target = folder / "smollm2-135m-instruct"
    target.mkdir()
    (target / smollm2.path.name).symlink_to(smollm2.path)
    return ModelStore(folder, store.registry, store._fetcher)


def test_tight_memory_shortens_the_context_and_the_worker_stays_within_it(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store, limits = only_first(embedded_store, smollm2, tmp_path), Limits(212_000_000, 60, 4096, "q8_0")
    resident, peak = asyncio.run(first(store, profile_of(), limits))
    assert 2048 <= resident.local.settings.context_tokens < 4096
    assert resident.local.settings.kv_type == "q8_0"
    assert f"{resident.local.settings.context_tokens} tokens of q8_0" in resident.why
    assert peak <= limits.memory_bytes * 1.02
    assert abs(peak - resident.memory_bytes) / peak < 0.10


def test_without_flash_attention_the_cache_is_f16_and_counted_so(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    store, limits = only_first(embedded_store, smollm2, tmp_path), Limits(500_000_000, 60, 2048, "q8_0")
    resident, peak = asyncio.run(first(store, profile_of(flash_attention=False), limits))
    assert resident.local.settings.kv_type == "f16"
    assert abs(peak - resident.memory_bytes) / peak < 0.10


def test_one_variant_by_its_own_and_by_its_models_name_is_one_resident(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    async def read_profile(probe: ProbeModel | None) -> Profile:
        del probe
        return profile_of()

    async def scenario() -> None:
        store, limits = only_first(embedded_store, smollm2, tmp_path), Limits(500_000_000, 60, 2048, "q8_0")
        pool = ModelPool(store, EngineConfig(), read_profile, lambda: limits, machine_of)
        resident = await pool.get(KEY)
        assert await pool.get("smollm2-135m-instruct") is resident
        assert pool.residents == [resident]
        await pool.rechoose()
        assert pool.residents == []
        assert await pool.get(KEY) is not resident
        await pool.close()
        assert not pool.has("smollm2-135m-instruct/Q8_0")
        with pytest.raises(ModelNotFoundError, match="models pull smollm2-135m-instruct --variant Q8_0'"):
            await pool.get("smollm2-135m-instruct/Q8_0")
        with pytest.raises(ModelNotFoundError, match="no variant 'Q9'"):
            pool.has("smollm2-135m-instruct/Q9")

    asyncio.run(scenario())


def test_resident_has_the_verdict_of_its_own_settings_probed_as_it_will_be_loaded(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    asked: list[ProbeModel | None] = []

    async def read_profile(probe: ProbeModel | None) -> Profile:
        asked.append(probe)
        if probe is None or probe.evaluation is None:
            return profile_of()
        known = Invariance(decode_batch=3, draft_batch=8, complete=True)
        return profile_of().model_copy(update={"invariance": {probe.evaluation.key(probe.key): known}})

    async def choose() -> Resident:
        store, limits = only_first(embedded_store, smollm2, tmp_path), Limits(500_000_000, 60, 2048, "q8_0")
        pool = ModelPool(store, EngineConfig(), read_profile, lambda: limits, machine_of)
        try:
            return await pool.get("smollm2-135m-instruct")
        finally:
            await pool.close()

    resident = asyncio.run(choose())
    known = resident.local.settings.invariance
    assert (known.decode_batch, known.draft_batch) == (3, 8)
    last = asked[-1]
    assert last is not None
    assert last.evaluation == usual_evaluation(profile_of(), last)

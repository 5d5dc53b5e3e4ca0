"""Advice that arrives: at the worker, at the planner's rates, at the next choice, in the notes."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.config import GovernorConfig
from edgeagent.core.governor import Levers
from edgeagent.core.hardware import Rates
from edgeagent.execution.loading import pace_of
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.stages import StageModel
from edgeagent.model.governing import Governing
from edgeagent.model.resident import HeldHead, HeldOutput, Resident
from edgeagent.model.slicing import padding_of, slice_variant, stage_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.parts import spawn_llama
from edgeagent.resource.governor import GovernorLimits
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.sensors import Sensors
from tests.machine import REPACKS

ZONE = "sys/class/thermal/thermal_zone0"
RATES = Rates(threads=2, kv_type="q8_0", prefill_tok_s=100.0, decode_tok_s=20.0)


class OneModel:
    """What Governing needs of a pool, around one resident."""

    def __init__(self, resident: Resident | None) -> None:
        self.resident = resident
        self.num_rechosen = 0
        self.released: list[float] = []
        self.on_use: Callable[[], None] = lambda: None

    @property
    def residents(self) -> list[Resident]:
        return [self.resident] if self.resident else []

    def smaller(self, resident: Resident) -> int | None:
        return 50_000_000

    async def rechoose(self) -> None:
        self.num_rechosen += 1

    async def release_idle(self, unused_s: float) -> None:
        self.released.append(unused_s)


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def governing(root: Path, pool: OneModel, config: GovernorConfig | None = None) -> Governing:
    ticks = itertools.count(0.0, 3.0)
    sensors = Sensors(Sysroot(root), lambda: next(ticks), board_throttle_c=80.0)
    return Governing(config or GovernorConfig(), GovernorLimits(), sensors, pool, usual=Levers("q8_0", 4096), cores=2)


def settings_of(stored: StoredVariant, context_tokens: int) -> LoadSettings:
    return LoadSettings(
        str(stored.path), stored.sha256, context_tokens, "q8_0", flash_attention=True, threads=2, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip


def with_resident(smollm2: StoredVariant, use: Callable[[Resident], Awaitable[None]]) -> None:
    variant = smollm2.variant.model_copy(update={"bytes": smollm2.bytes})

    async def body() -> None:
        local = LocalModel(settings_of(smollm2, context_tokens=512))
        try:
            await use(Resident(smollm2.card, variant, "", RATES, 200_000_000, local, used_at=1.0))
        finally:
            await local.close()

    asyncio.run(body())


def test_heat_reaches_the_loaded_worker_the_rates_and_the_notes(smollm2: StoredVariant, tmp_path: Path) -> None:
    put(tmp_path, f"{ZONE}/type", "cpu-thermal")
    put(tmp_path, f"{ZONE}/temp", "79500")

    async def use(resident: Resident) -> None:
        await resident.whole.facts()
        governor = governing(tmp_path, OneModel(resident))
        for _ in range(6):
            await governor.observe()
        assert resident.pace is not None
        threads, duty = resident.pace
        assert threads * duty < 2
        assert resident.rates.decode_tok_s == pytest.approx(20.0 * threads * duty / 2)
        assert "80 °C" in governor.reasons_since(0.0)[-1]
        assert await resident.local.count(["still there"])
        put(tmp_path, f"{ZONE}/temp", "40000")
        for _ in range(30):
            await governor.observe()
        assert resident.pace == (2, 1.0)
        assert resident.rates.decode_tok_s == 20.0
        assert governor.advice.is_neutral

    with_resident(smollm2, use)


def test_heat_reaches_the_output_head_beside_a_head(
    embedded_store: ModelStore, smollm2: StoredVariant, tmp_path: Path
) -> None:
    put(tmp_path, f"{ZONE}/type", "cpu-thermal")
    put(tmp_path, f"{ZONE}/temp", "79500")

    async def stage(begin: int, end: int) -> StageModel:
        name = smollm2.variant.name
        made = (await slice_variant(embedded_store, smollm2.card.id, begin, end, spawn_llama, base=name)).stored
        settings = replace(settings_of(made, context_tokens=256), kv_type="f16")  # fewer threads would change bits
        return StageModel(settings, *stage_of(made), padding_of(made.path) if begin == 0 else None)

    async def body() -> None:
        head, output = await stage(0, 8), await stage(30, 30)
        resident = Resident(
            smollm2.card, smollm2.variant, "", RATES, 200_000_000, head, 1.0, HeldHead(head, "no file of it")
        )
        resident.output = HeldOutput(output, embedded_store.hold(smollm2), 40_000_000)
        governor = governing(tmp_path, OneModel(resident))
        try:
            workers = [await model.worker() for model in (head, output)]
            for _ in range(6):
                await governor.observe()
            assert resident.pace is not None
            _, duty = pace_of(head.settings, *resident.pace)
            assert duty < 1
            assert [worker.watch.duty for worker in workers] == [duty, duty]
            assert set(governor._engine().pids) == {worker.pid for worker in workers}
        finally:
            await resident.unload()

    asyncio.run(body())


def test_short_memory_changes_the_next_choice_and_not_the_present_one(smollm2: StoredVariant, tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 100000 kB\n")

    async def use(resident: Resident) -> None:
        pool = OneModel(resident)
        governor = governing(tmp_path, pool)
        for _ in range(8):
            await governor.observe()
        assert governor.advice.smaller_variant
        assert pool.released
        assert pool.num_rechosen == 0
        await governor.admit()
        await governor.admit()
        assert pool.num_rechosen == 1
        cap = governor.memory_cap
        assert cap is not None
        assert 50_000_000 < cap < resident.memory_bytes

    with_resident(smollm2, use)


def test_request_waits_for_a_paused_machine_only_so_long(smollm2: StoredVariant, tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 100000 kB\n")

    async def use(resident: Resident) -> None:
        governor = governing(tmp_path, OneModel(resident), GovernorConfig(max_pause_s=0.2))
        for _ in range(40):
            await governor.observe()
        assert governor.advice.pause
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await governor.admit()
        async with asyncio.timeout(60):
            await governor.admit()

    with_resident(smollm2, use)


def test_nothing_is_read_while_no_model_is_loaded(tmp_path: Path) -> None:
    async def body() -> None:
        pool = OneModel(None)
        governor = governing(tmp_path, pool)
        reads = 0

        async def count() -> None:
            nonlocal reads
            reads += 1

        governor.observe = count  # type: ignore[method-assign]
        task = asyncio.create_task(governor.run())
        await asyncio.sleep(0.05)
        pool.on_use()
        await asyncio.sleep(0.05)
        assert not task.done()
        assert reads == 0
        task.cancel()

    asyncio.run(body())

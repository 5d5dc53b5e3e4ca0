"""Advice that arrives: at the worker, at the planner's rates, at the next choice, in the notes."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgeagent.core.config import GovernorConfig
from edgeagent.core.governor import Levers
from edgeagent.core.hardware import Rates
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.governing import Governing
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from edgeagent.resource.governor import GovernorLimits
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.sensors import Sensors
from tests.machine import REPACKS

ZONE = "sys/class/thermal/thermal_zone0"


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


def with_resident(smollm2: StoredVariant, use: Callable[[Resident], Awaitable[None]]) -> None:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 512, "q8_0", flash_attention=True, threads=2, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip
    variant = smollm2.variant.model_copy(update={"bytes": smollm2.bytes})
    rates = Rates(threads=2, kv_type="q8_0", prefill_tok_s=100.0, decode_tok_s=20.0)

    async def body() -> None:
        local = LocalModel(settings)
        try:
            await use(Resident(smollm2.card, variant, "", rates, 200_000_000, local, used_at=1.0))
        finally:
            await local.close()

    asyncio.run(body())


def test_heat_reaches_the_loaded_worker_the_rates_and_the_notes(smollm2: StoredVariant, tmp_path: Path) -> None:
    put(tmp_path, f"{ZONE}/type", "cpu-thermal")
    put(tmp_path, f"{ZONE}/temp", "79500")

    async def use(resident: Resident) -> None:
        await resident.local.facts()
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

"""Rates that no longer hold are measured again, once the model is quiet, and kept."""

import asyncio

import pytest

from edgeagent.core.hardware import Rates
from edgeagent.model import rechecking
from edgeagent.model.rechecking import Rechecking
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from edgeagent.resource.drift import MIN_SAMPLES, Drift, Sample
from tests.model.test_governing import with_resident


class OnePool:
    """The pool as a recheck sees it: one real resident, really measured."""

    def __init__(self, resident: Resident) -> None:
        self.residents = [resident]

    async def measure(self, resident: Resident) -> None:
        prefill, decode = await resident.whole.bench(64, 8)
        resident.rates = resident.rates.model_copy(update={"prefill_tok_s": prefill, "decode_tok_s": decode})


def answer(factor: float) -> Sample:
    return Sample(500, 40, 2.0 * factor, 2.0, 0.01 * factor, 0.01)


def test_drifted_model_is_measured_again_and_its_rates_are_kept(
    smollm2: StoredVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rechecking, "QUIET_S", 0.05)
    kept: dict[str, Rates] = {}

    async def use(resident: Resident) -> None:
        is_kept = asyncio.Event()

        async def keep(key: str, rates: Rates) -> None:
            kept[key] = rates
            is_kept.set()

        resident.used_at -= 60
        before = resident.rates
        recheck = Rechecking(OnePool(resident), keep)
        task = asyncio.create_task(recheck.run())
        for _ in range(MIN_SAMPLES):
            recheck.note(resident, answer(1.0))
        await asyncio.sleep(0.2)
        assert not kept
        for _ in range(3 * MIN_SAMPLES):
            recheck.note(resident, answer(3.0))
        async with asyncio.timeout(60):
            await is_kept.wait()
        task.cancel()
        assert resident.drift == Drift()
        assert kept == {f"{resident.card.id}/{resident.variant.name}": resident.rates}
        assert resident.rates != before

    with_resident(smollm2, use)


def test_answers_that_the_governor_slowed_say_nothing(smollm2: StoredVariant) -> None:
    async def use(resident: Resident) -> None:
        async def keep(_key: str, _rates: Rates) -> None:
            raise AssertionError

        resident.pace = (1, 0.5)
        recheck = Rechecking(OnePool(resident), keep)
        for _ in range(50):
            recheck.note(resident, answer(2.0))
        assert resident.drift == Drift()

    with_resident(smollm2, use)

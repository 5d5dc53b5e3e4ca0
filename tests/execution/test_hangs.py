"""Workers of a real model that hang or crash in an answer: it goes on with the same words."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineLostError
from edgeagent.core.generation import Sampling, TokenStep
from edgeagent.core.plan import Handover
from edgeagent.execution.executors import LocalExecutor, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.local import LocalModel
from edgeagent.model.store import StoredVariant
from tests.execution.test_local import STORY, generation_for, tokens_of, with_model


@pytest.fixture(autouse=True)
def faults_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")


async def same_words(model: LocalModel, fault: dict[str, object]) -> str:
    """The reason of the one handover of an answer whose worker meets a fault after its fifth token."""
    generation = await generation_for(model, STORY, Sampling(temperature=0.8, seed=3))
    whole = await tokens_of(model, generation)
    settings, got, reasons = model.settings, list[int](), list[str]()
    async for step in complete(generation, [LocalExecutor(model, Traffic())] * 2):
        if isinstance(step, Handover):
            reasons.append(step.reason)
        if isinstance(step, TokenStep):
            got.append(step.token)
            if len(got) == 5:
                assert model._worker is not None
                await model._worker._send({"id": 0, "op": "fault", "params": fault}, ())
    assert got == whole
    assert model.settings == settings
    assert len(reasons) == 1
    return reasons[0]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGSTOP,
        signal.SIGABRT,
        pytest.param(signal.SIGSEGV, marks=pytest.mark.long),  # these two die in test_local too
        pytest.param(signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_answer_goes_on_after_a_signal(smollm2: StoredVariant, number: signal.Signals) -> None:
    async def use(model: LocalModel) -> None:
        reason = await same_words(model, {"signal": int(number)})
        assert ("was stopped" if number is signal.SIGSTOP else f"exit {-number}") in reason

    with_model(smollm2, use)


@pytest.mark.long
@pytest.mark.parametrize("hang", ["spin", "deadlock"])
def test_answer_goes_on_after_a_hang(smollm2: StoredVariant, hang: str) -> None:
    async def use(model: LocalModel) -> None:
        reason = await same_words(model, {"hang": hang})
        assert re.search(r"made no progress in 1\d(\.\d)? s", reason), reason

    with_model(smollm2, use)


def test_model_whose_workers_die_before_they_answer_is_not_started_for_ever(smollm2: StoredVariant) -> None:
    async def use(model: LocalModel) -> None:
        for _ in range(3):
            await model.facts()
            assert model.pid is not None
            os.kill(model.pid, signal.SIGSEGV)
            while Path(f"/proc/{model.pid}").exists() and model.is_loaded:  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
        with pytest.raises(EngineLostError, match=r"lost 3 times within 60 s .* not started again for"):
            await model.facts()
        assert not model.settings.extra_buffers

    with_model(smollm2, use)

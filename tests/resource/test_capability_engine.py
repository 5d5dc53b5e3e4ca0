"""The engine probe: what it decides from outcomes, and real children that really die, hang and refuse."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgeagent.core.hardware import EngineFacts
from edgeagent.execution.channel import Buffers, Received
from edgeagent.execution.supervisor import STALL_S, Worker
from edgeagent.resource.capability import (
    PREFERENCE,
    EngineSettings,
    Outcome,
    ProbeModel,
    Trial,
    is_conclusive,
    parse_flags,
    probe_engine,
    spawn_engine,
    try_engine,
    untested,
)

BEST = PREFERENCE[0]


def probe_with(outcomes: Sequence[Outcome]) -> tuple[EngineFacts, list[EngineSettings]]:
    tried: list[EngineSettings] = []

    async def try_settings(settings: EngineSettings) -> Trial:
        tried.append(settings)
        return Trial(outcomes[len(tried) - 1], reason=f"trial {len(tried)}", version="1.0")

    return asyncio.run(probe_engine(try_settings)), tried


def test_probe_preferred_settings_work_stops_after_one_trial() -> None:
    facts, tried = probe_with(["ok"])
    assert tried == [BEST]
    assert facts.usable
    assert facts.probe.settings == {"extra_buffers": True, "flash_attention": True}


def test_probe_preferred_settings_crash_records_the_crash_and_the_safe_settings() -> None:
    facts, tried = probe_with(["crashed", "ok"])
    assert tried == list(PREFERENCE[:2])
    assert facts.usable
    assert facts.probe.verdict == "crashed"
    assert facts.probe.settings == {"extra_buffers": False, "flash_attention": True}
    assert facts.probe.reason.startswith("trial 1; safe: ")


@pytest.mark.parametrize(("outcome", "conclusive"), [("crashed", True), ("hung", True), ("failed", False)])
def test_probe_nothing_works_is_unusable_and_a_bad_file_is_worth_another_try(
    outcome: Outcome, conclusive: bool
) -> None:
    facts, tried = probe_with([outcome] * len(PREFERENCE))
    assert tried == list(PREFERENCE)
    assert not facts.usable
    assert facts.probe.settings == {}
    assert is_conclusive(facts) is conclusive


def test_untested_engine_is_not_conclusive() -> None:
    assert not is_conclusive(untested("1.0", "no model"))


def test_flags_of_a_build_are_read_and_other_text_is_not() -> None:
    assert parse_flags("CPU : AVX2 = 1 | NEON = 0 | LLAMAFILE = 1 | THREADS = 8 |") == {
        "AVX2": True,
        "NEON": False,
        "LLAMAFILE": True,
    }


class FaultyWorker(Worker):
    """A real worker that a real signal hits right before its first evaluation, when extra buffers are on."""

    fault = signal.SIGSEGV
    has_extra_buffers: object = None

    async def call(self, op: str, bulk: Buffers = (), *, stall_s: float = STALL_S, **params: object) -> Received:
        self.has_extra_buffers = params.get("extra_buffers", self.has_extra_buffers)
        if op == "bench" and self.has_extra_buffers:
            await super().call("fault", stall_s=stall_s, signal=int(self.fault))
        return await super().call(op, bulk, stall_s=stall_s, **params)


class StoppingWorker(FaultyWorker):
    fault = signal.SIGSTOP


@pytest.fixture(autouse=True)
def faults_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")


def test_trial_on_this_machine_runs_the_real_model(model: ProbeModel) -> None:
    facts = asyncio.run(probe_engine(lambda settings: try_engine(model, settings)))
    assert facts.usable
    assert facts.version
    assert facts.flags


def test_trial_child_dies_of_sigsegv_while_this_process_goes_on_with_safe_settings(model: ProbeModel) -> None:
    workers: list[Worker] = []

    async def spawn() -> Worker:
        workers.append(await FaultyWorker.spawn("llama"))
        return workers[-1]

    facts = asyncio.run(probe_engine(lambda settings: try_engine(model, settings, spawn=spawn)))
    assert facts.probe.verdict == "crashed"
    assert f"exit {-signal.SIGSEGV}" in facts.probe.reason
    assert facts.usable
    assert facts.probe.settings == {"extra_buffers": False, "flash_attention": True}
    assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


def test_trial_child_that_stops_is_hung_and_killed(model: ProbeModel) -> None:
    workers: list[Worker] = []

    async def spawn() -> Worker:
        workers.append(await StoppingWorker.spawn("llama"))
        return workers[-1]

    trial = asyncio.run(try_engine(model, BEST, spawn=spawn, timeout_s=3))
    assert trial.outcome == "hung"
    with pytest.raises(ProcessLookupError):
        os.kill(workers[0].pid, 0)


def test_trial_with_a_truncated_file_fails_without_a_crash(model: ProbeModel, tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(model.path.read_bytes()[:100_000])
    cut = ProbeModel("cut/Q4_1", file, "q8_0", 64)
    trial = asyncio.run(try_engine(cut, BEST, spawn=spawn_engine))
    assert trial.outcome == "failed"
    assert "cut.gguf" in trial.reason

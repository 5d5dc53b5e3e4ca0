"""The survey: what it tries, in which order, and what it keeps, over real children with real faults."""

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeagent.core.hardware import Capability, EngineFacts, Verdict
from edgeagent.execution.supervisor import Worker
from edgeagent.model.store import StoredVariant
from edgeagent.resource.capability import ProbeModel, Survey, engine_builds, probe_capabilities
from edgeagent.resource.capability.trial import ABSENT, DISTRIBUTIONS, Limits, SpawnLimited, spawn_limited
from tests.machine import REPACKS
from tests.resource.faults import spawn_faulty

TODAY = "2026-03-01"
ONNXRUNTIME = engine_builds()["onnxruntime"].partition("+")[0]
LITERT = engine_builds()["litert"].partition("+")[0]


def llama(usable: bool = True) -> EngineFacts:
    return EngineFacts(name="llama", version="1", usable=usable, probe=Verdict(verdict="ok", reason=""))


def known(engine: str, version: str, names: str, verdict: str = "ok") -> EngineFacts:
    told = tuple(
        Capability.model_validate({"name": name, "verdict": verdict, "reason": "known", "at": "2025-01-01"})
        for name in names.split()
    )
    flags = dict.fromkeys(names.split(), True)
    probe = Verdict(verdict="ok", reason="")
    return EngineFacts(name=engine, version=version, usable=True, flags=flags, probe=probe, capabilities=told)


ALL_ONNX = known("onnxruntime", ONNXRUNTIME, "CPUExecutionProvider")
ALL_LITERT = known("litert", LITERT, "cpu xnnpack edgetpu vx ethosu qnn teflon")


def survey(
    *engines: EngineFacts,
    model: ProbeModel | None = None,
    spawn: SpawnLimited = spawn_limited,
    budget_s: float = 1000,
    trial_s: float = 120,
    clock: Callable[[], float] = time.monotonic,
    keep: Callable[[Survey], None] = lambda _: None,
) -> Survey:
    return asyncio.run(
        probe_capabilities(
            model, engines, today=TODAY, budget_s=budget_s, clock=clock, spawn=spawn, trial_s=trial_s, keep=keep
        )
    )


def verdicts(found: Survey, engine: str) -> dict[str, str]:
    return {c.name: c.verdict for facts in found.engines if facts.name == engine for c in facts.capabilities}


class Spawns:
    """Counts workers, by engine."""

    def __init__(self) -> None:
        self.engines: list[str] = []

    async def __call__(self, engine: str, limits: Limits) -> Worker:
        self.engines.append(engine)
        return await spawn_limited(engine, limits)


@pytest.fixture(autouse=True)
def faults_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")


@pytest.mark.long
def test_survey_of_this_machine_judges_everything_and_a_second_one_tries_nothing(
    model: ProbeModel, minilm: StoredVariant
) -> None:
    spawns, kept, told = Spawns(), list[Survey](), list[tuple[str, float]]()

    def look(engines: tuple[EngineFacts, ...]) -> Survey:
        return asyncio.run(
            probe_capabilities(
                model,
                engines,
                today=TODAY,
                budget_s=1000,
                clock=time.monotonic,
                onnx_model=minilm.path,
                spawn=spawns,
                progress=lambda what, share: told.append((what, share)),
                keep=kept.append,
            )
        )

    found = look((llama(),))
    llama_says = verdicts(found, "llama")
    works = {"flash_attention", "kv_q8_0", "kv_q4_0", "kv_f16", "mmap", "no_mmap"}
    assert {name for name, verdict in llama_says.items() if verdict == "ok"} >= works
    assert llama_says["extra_buffers"] == ("ok" if REPACKS else "crashed")
    assert verdicts(found, "onnxruntime")["CPUExecutionProvider"] == "ok"
    assert found.left == ()
    assert {c.at for engine in found.engines for c in engine.capabilities} == {TODAY}
    assert len(kept) == len(told) == sum(len(engine.capabilities) for engine in found.engines)
    assert told[0] == ("llama gpu_layers", 0.0)
    assert told[-1][1] == 1 - 1 / len(told)

    spawns.engines.clear()
    told.clear()
    again = look(found.engines)
    assert (spawns.engines, told) == ([], [])
    assert again.engines == found.engines


def test_crash_of_one_trial_costs_one_verdict(model: ProbeModel) -> None:
    before = known("llama", "1", "gpu_layers flash_attention extra_buffers kv_f16 mmap no_mmap mlock")
    spawn = spawn_faulty(lambda _, params: params.get("kv_type") == "q8_0", signal.SIGSEGV)
    found = survey(before, ALL_ONNX, ALL_LITERT, model=model, spawn=spawn)
    assert verdicts(found, "llama")["kv_q8_0"] == "crashed"
    assert verdicts(found, "llama")["kv_q4_0"] == "ok"
    (facts,) = (engine for engine in found.engines if engine.name == "llama")
    reason = next(c.reason for c in facts.capabilities if c.name == "kv_q8_0")
    assert "SIGSEGV" in reason
    assert not facts.can("kv_q8_0")
    assert facts.can("kv_q4_0")


def test_engine_that_crashes_at_its_first_question_is_unusable_and_the_others_are_judged() -> None:
    spawn = spawn_faulty(lambda op, _: op == "providers", signal.SIGABRT)
    found = survey(spawn=spawn)
    (onnxruntime,) = (engine for engine in found.engines if engine.name == "onnxruntime")
    assert not onnxruntime.usable
    assert onnxruntime.probe.verdict == "crashed"
    assert "SIGABRT" in onnxruntime.probe.reason
    assert any(engine.name == "litert" for engine in found.engines)


def test_provider_that_hangs_is_hung_and_its_child_is_gone() -> None:
    spawned: list[Worker] = []
    spawn = spawn_faulty(lambda op, _: op == "trial", signal.SIGSTOP, spawned)
    before = known("onnxruntime", ONNXRUNTIME, "").model_copy(update={"flags": {"CPUExecutionProvider": True}})
    found = survey(before, ALL_LITERT, spawn=spawn, trial_s=2)
    assert verdicts(found, "onnxruntime") == {"CPUExecutionProvider": "hung"}
    assert found.engines[0].probe.verdict == "hung"
    assert [worker.is_alive for worker in spawned] == [False]
    assert spawned[0].exit_status == -signal.SIGKILL


def test_budget_spent_stops_in_order_of_worth_and_the_next_pass_goes_on() -> None:
    ticks = iter(range(1000))
    before = known("onnxruntime", ONNXRUNTIME, "").model_copy(
        update={"flags": {"AzureExecutionProvider": True, "CPUExecutionProvider": True}}
    )
    spawns = Spawns()
    first = survey(before, ALL_LITERT, spawn=spawns, budget_s=2, clock=lambda: float(next(ticks)))
    assert verdicts(first, "onnxruntime") == {"CPUExecutionProvider": "ok"}
    assert "onnxruntime AzureExecutionProvider" in first.left
    num_first = len(spawns.engines)
    second = survey(*first.engines, spawn=spawns)
    assert set(verdicts(second, "onnxruntime")) == {"CPUExecutionProvider", "AzureExecutionProvider"}
    assert second.left == ()
    assert len(spawns.engines) > num_first


def test_other_version_of_an_engine_is_tried_anew() -> None:
    old = known("onnxruntime", "0.1", "CPUExecutionProvider", "crashed")
    found = survey(old, ALL_LITERT)
    (facts,) = (engine for engine in found.engines if engine.name == "onnxruntime")
    assert facts.version == ONNXRUNTIME
    assert facts.can("CPUExecutionProvider")
    assert facts.usable


@pytest.mark.parametrize("verdict", ["ok", "crashed", "hung", "failed"])
def test_verdict_under_the_same_version_is_kept_whatever_it_was(verdict: str) -> None:
    before = known("onnxruntime", ONNXRUNTIME, "CPUExecutionProvider", verdict)
    spawns = Spawns()
    found = survey(before, ALL_LITERT, spawn=spawns)
    assert found.engines == (before, ALL_LITERT)
    assert spawns.engines == []


def test_without_a_model_or_a_usable_engine_its_capabilities_are_left(tmp_path: Path) -> None:
    spawns = Spawns()
    without = survey(llama(), ALL_ONNX, ALL_LITERT, spawn=spawns)
    unusable = survey(
        llama(usable=False), ALL_ONNX, ALL_LITERT, model=ProbeModel("m/v", tmp_path, "q8_0", 64), spawn=spawns
    )
    assert "llama kv_q8_0" in without.left
    assert without.left == unusable.left
    assert spawns.engines == []


def test_package_that_is_not_installed_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTRIBUTIONS, "litert", ("edgeagent-no-such-package",))
    found = survey(ALL_ONNX, ALL_LITERT)
    (facts,) = (engine for engine in found.engines if engine.name == "litert")
    assert (facts.version, facts.usable, facts.capabilities) == (ABSENT, False, ())
    assert "edgeagent[litert]" in facts.probe.reason


def test_absent_library_is_looked_for_again() -> None:
    before = known("litert", LITERT, "cpu xnnpack edgetpu vx ethosu").model_copy(update={"capabilities": ()})
    absent = known("litert", LITERT, "cpu xnnpack edgetpu vx ethosu qnn teflon", "absent").capabilities
    if LITERT == ABSENT:
        pytest.skip("LiteRT is not installed here (pip install 'edgeagent[litert]')")
    found = survey(ALL_ONNX, before.model_copy(update={"capabilities": absent}))
    (facts,) = (engine for engine in found.engines if engine.name == "litert")
    assert {c.at for c in facts.capabilities} == {TODAY}
    assert facts.can("xnnpack")

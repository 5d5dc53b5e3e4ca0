"""ONNX Runtime's trials: providers that run, that silently leave all to the CPU, and that die."""

import asyncio
import signal
from array import array
from pathlib import Path

import pytest

from edgeagent.model.store import StoredVariant
from edgeagent.resource.capability.judging import Judged
from edgeagent.resource.capability.onnxruntime import CPU, OnnxTrials
from edgeagent.resource.capability.trial import Limits, SpawnLimited, run_trial, spawn_limited
from tests.resource.faults import spawn_changed, spawn_faulty


def judge(name: str, model: Path | None = None, spawn: SpawnLimited = spawn_limited) -> Judged:
    return asyncio.run(OnnxTrials(model, spawn, 60).judge(name))


@pytest.fixture(autouse=True)
def faults_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")


def test_cpu_runs_every_node_of_the_tiny_model() -> None:
    assert judge(CPU) == Judged("ok", "2 of 2 nodes of a tiny model")


def test_tiny_model_computes_what_its_weights_say() -> None:
    outcome = asyncio.run(run_trial("onnx", "trial", limits=Limits(60), spawn=spawn_limited, provider=CPU))
    found = array("f", outcome.bulk)
    assert len(found) == 4 * 16
    assert min(found) == 0.0  # the ReLU
    assert max(found) > 0.5


def test_cpu_runs_the_real_encoder(minilm: StoredVariant) -> None:
    judged = judge(CPU, minilm.path)
    assert judged.verdict == "ok"
    assert "minilm" in judged.reason


def test_provider_this_build_lacks_falls_back_silently_and_is_found_out() -> None:
    judged = judge("MIGraphXExecutionProvider")
    assert judged == Judged("failed", "it did not start: ONNX Runtime fell back to the CPU without an error")


def test_provider_that_starts_and_runs_nothing_is_found_out() -> None:
    """Azure's is in every official CPU build, and runs remote models only."""
    answer = asyncio.run(OnnxTrials(None, spawn_limited).providers())
    assert answer.reply is not None
    if "AzureExecutionProvider" not in answer.reply["providers"]:
        pytest.skip("this ONNX Runtime has no provider that runs nothing")
    assert judge("AzureExecutionProvider") == Judged(
        "failed", "it took none of the model's 2 nodes: the CPU ran them all"
    )


def test_file_that_is_no_model_fails_by_name(tmp_path: Path) -> None:
    file = tmp_path / "torn.onnx"
    file.write_bytes(b"\x08\x08torn")
    judged = judge(CPU, file)
    assert judged.verdict == "failed"
    assert judged.reason.startswith("not even the CPU's works: CPUExecutionProvider cannot be started")


def test_provider_that_dies_is_crashed() -> None:
    spawn = spawn_faulty(lambda _, p: p.get("provider") == "MIGraphXExecutionProvider", signal.SIGSEGV)
    assert judge("MIGraphXExecutionProvider", spawn=spawn).verdict == "crashed"


def test_provider_out_of_memory_costs_its_verdict() -> None:
    tight = Limits(60, address_bytes=120 * 2**20)
    outcome = asyncio.run(run_trial("onnx", "trial", limits=tight, spawn=spawn_limited, provider=CPU))
    assert outcome.verdict in {"crashed", "failed"}
    assert "120 MiB" in outcome.reason


def test_provider_that_computes_something_else_fails(minilm: StoredVariant) -> None:
    """The second run really computes another model: a provider with wrong kernels looks no different."""
    runs: list[str] = []

    def change(op: str, params: dict[str, object]) -> dict[str, object]:
        runs.append(op)
        return params | {"model": "", "provider": CPU} if len(runs) > 1 else params | {"provider": CPU}

    trials = OnnxTrials(minilm.path, spawn_changed(change), 60)
    first = asyncio.run(trials.judge(CPU))
    second = asyncio.run(trials._run("other"))
    assert first.verdict == "ok"
    assert trials._cpu is not None
    assert trials._compared(CPU, trials._cpu, second).reason == "wrong results: 64 values instead of 6144"

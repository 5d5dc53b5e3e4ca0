"""llama.cpp's trials over the real model: what is right, what breaks, what is promised and not done."""

import asyncio
import ctypes
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.execution.channel import Message
from edgeagent.execution.supervisor import Worker
from edgeagent.resource.capability import ProbeModel
from edgeagent.resource.capability.judging import Judged
from edgeagent.resource.capability.llama import PLAIN, TEXT, LlamaTrials, backend
from edgeagent.resource.capability.trial import Limits, SpawnLimited, run_trial, spawn_limited
from tests.conftest import ROOT
from tests.machine import REPACKS
from tests.resource.faults import spawn_changed, spawn_faulty

MIB = 2**20
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14
LOCKABLE_BYTES = 64 * 1024


def judge(model: ProbeModel, *names: str, spawn: SpawnLimited = spawn_limited, timeout_s: float = 120) -> list[Judged]:
    trials = LlamaTrials(model, spawn, timeout_s)

    async def all_of_them() -> list[Judged]:
        return [await trials.judge(name) for name in names]

    return asyncio.run(all_of_them())


@pytest.fixture(autouse=True)
def faults_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAGENT_FAULTS", "1")


def test_mapped_file_and_read_file_are_what_the_kernel_says(model: ProbeModel) -> None:
    mapped, read = judge(model, "mmap", "no_mmap")
    assert (mapped.verdict, read.verdict) == ("ok", "ok")
    assert read.reason.startswith("128 of 128 ")


@pytest.mark.long
def test_extra_buffers_that_this_file_leaves_empty_are_tried_with_a_copy_that_fills_them(model: ProbeModel) -> None:
    requests: list[Message] = []

    def record(op: str, params: Message) -> Message:
        requests.append({"op": op, **params})
        return params

    (judged,) = judge(model, "extra_buffers", spawn=spawn_changed(record))
    copies = [Path(r["target"]) for r in requests if r["op"] == "quantize"]
    tried = {Path(r["path"]) for r in requests if r.get("extra_buffers") is True}
    assert not any(copy.exists() for copy in copies)
    if judged.verdict == "ok":
        assert tried == {model.path, *copies}
        assert ("Q4_0 copy" in judged.reason) is bool(copies)
    else:
        assert not REPACKS
        assert judged.verdict == "crashed"


def test_mapping_that_is_not_done_is_a_failure(model: ProbeModel) -> None:
    def swap(op: str, params: Message) -> Message:
        del op
        return params | {"load_mode": "map"} if params.get("load_mode") == "read" else params

    (read,) = judge(model, "no_mmap", spawn=spawn_changed(swap))
    assert read == Judged("failed", "the file was mapped all the same")


def test_gpu_is_absent_when_the_build_has_none(model: ProbeModel) -> None:
    features = asyncio.run(run_trial("llama", "features", limits=Limits(), spawn=spawn_limited)).reply
    assert features is not None
    (gpu,) = judge(model, "gpu_layers")
    if features["gpu_offload"] and features["devices"]:
        pytest.skip(f"this llama.cpp uses {features['devices']}")
    assert gpu.verdict == "absent"


def test_gpu_that_gets_no_layer_is_a_failure(model: ProbeModel) -> None:
    """A build with a GPU, as far as the supervisor is told, and in truth none: the loader's own log gives it away."""

    class Boasting(LlamaTrials):
        async def _absence(self, name: str) -> Judged | None:
            return None

    gpu = asyncio.run(Boasting(model, spawn_limited).judge("gpu_layers"))
    assert gpu.verdict == "failed"
    assert "no layer went to the GPU" in gpu.reason


def scrambled(model: ProbeModel, tmp_path: Path) -> Path:
    """The model with 20 MB of its weights overwritten by zeros: it loads, runs, and computes something else."""
    content = bytearray(model.path.read_bytes())
    content[60 * 10**6 : 80 * 10**6] = bytes(20 * 10**6)
    file = tmp_path / "scrambled.gguf"
    file.write_bytes(content)
    return file


def test_garbage_without_an_error_is_a_failure(model: ProbeModel, tmp_path: Path) -> None:
    other = str(scrambled(model, tmp_path))
    spawn = spawn_changed(lambda _, p: p | {"path": other} if p.get("flash_attention") else p)
    garbage, plain = judge(model, "flash_attention", "kv_f16", spawn=spawn)
    assert garbage.verdict == "failed"
    assert garbage.reason.startswith("wrong results: ")
    assert plain.verdict == "ok"


def test_logits_that_are_no_numbers_are_a_failure(model: ProbeModel, tmp_path: Path) -> None:
    content = bytearray(model.path.read_bytes())
    content[60 * 10**6 : 61 * 10**6] = b"\xff" * 10**6  # as float16 scales: not a number
    file = tmp_path / "nan.gguf"
    file.write_bytes(content)
    spawn = spawn_changed(lambda _, p: p | {"path": str(file)} if p.get("kv_type") == "q4_0" else p)
    (broken,) = judge(model, "kv_q4_0", spawn=spawn)
    assert broken == Judged("failed", "wrong results: logits that are no numbers")


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGILL, signal.SIGBUS])
def test_child_that_dies_is_crashed_by_that_signal(model: ProbeModel, fault: signal.Signals) -> None:
    spawn = spawn_faulty(lambda _, p: p.get("extra_buffers") is True, fault)
    (crashed,) = judge(model, "extra_buffers", spawn=spawn)
    assert crashed.verdict == "crashed"
    assert fault.name in crashed.reason


def test_plain_settings_that_crash_are_named_and_tried_once(model: ProbeModel) -> None:
    spawned: list[Worker] = []
    spawn = spawn_faulty(lambda op, _: op == "trial", signal.SIGSEGV, spawned)
    both = judge(model, "kv_f16", "kv_q8_0", spawn=spawn)
    assert [judged.verdict for judged in both] == ["crashed", "crashed"]
    assert "not even the plainest settings work" in both[1].reason
    assert len(spawned) == 1


def test_child_that_spins_is_ended_by_its_cpu_limit(model: ProbeModel) -> None:
    async def spawn(engine: str, limits: Limits) -> Worker:
        return await spawn_limited(engine, replace(limits, timeout_s=1))

    outcome = asyncio.run(
        run_trial("llama", "trial", limits=Limits(60), spawn=spawn, **parameters(model) | {"text": TEXT * 50})
    )
    assert outcome.verdict == "hung"
    assert "CPU time" in outcome.reason


@pytest.mark.parametrize("address_mib", [40, 130, 240])
def test_child_without_memory_costs_its_verdict_only(model: ProbeModel, address_mib: int) -> None:
    """Less than the libraries take, less than the file takes, and less than evaluating takes."""

    async def both() -> tuple[str, str, str]:
        tight = Limits(60, address_bytes=address_mib * MIB)
        poor = await run_trial("llama", "trial", limits=tight, spawn=spawn_limited, **parameters(model))
        rich = await run_trial("llama", "trial", limits=Limits(60), spawn=spawn_limited, **parameters(model))
        return poor.verdict, poor.reason, rich.verdict

    poor, reason, rich = asyncio.run(both())
    assert poor in {"crashed", "failed"}
    assert f"{address_mib} MiB of address space" in reason
    assert rich == "ok"


def parameters(model: ProbeModel) -> dict[str, object]:
    counts = {"batch_tokens": 96, "single_tokens": 5000, "chunk_tokens": model.chunk_tokens, "threads": 1}
    return {"path": str(model.path), "text": TEXT, **counts, **PLAIN}


def test_trial_child_is_the_first_to_die_when_memory_runs_out() -> None:
    async def score() -> str:
        worker = await spawn_limited("llama", Limits())
        try:
            await worker.call("version")
            return Path(f"/proc/{worker.pid}/oom_score_adj").read_text()  # noqa: ASYNC240  (memory, not a disk)
        finally:
            await worker.close()

    assert asyncio.run(score()).strip() == "1000"


MLOCK_TRIAL = """
import asyncio, sys
from pathlib import Path
from edgeagent.resource.capability import ProbeModel
from edgeagent.resource.capability.llama import LlamaTrials
from edgeagent.resource.capability.trial import spawn_limited
judged = asyncio.run(LlamaTrials(ProbeModel("m/v", Path(sys.argv[1]), "q8_0", 64), spawn_limited).judge("mlock"))
print(judged.verdict, judged.reason, sep="\\n")
"""


def poor_in_locks() -> None:
    """In the child: no right to lock more than a tiny RLIMIT_MEMLOCK. (A user other than root has none to give up.)"""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (LOCKABLE_BYTES, LOCKABLE_BYTES))


def run_mlock_trial(model: ProbeModel, before: Callable[[], None] | None) -> tuple[str, str]:
    shown = subprocess.run(
        [sys.executable, "-c", MLOCK_TRIAL, str(model.path)],
        cwd=ROOT,
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=True,
    )
    verdict, reason = shown.stdout.splitlines()
    return verdict, reason


def test_lock_that_silently_fails_is_a_failure(model: ProbeModel) -> None:
    verdict, reason = run_mlock_trial(model, poor_in_locks)
    assert verdict == "failed"
    assert reason == "only 0 of 92 MiB of weights stay locked (RLIMIT_MEMLOCK is 0.0625 MiB)"


def test_lock_that_holds_is_ok(model: ProbeModel) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if not int(status["CapEff"], 16) >> CAP_IPC_LOCK & 1 and 0 <= allowed < model.path.stat().st_size:
        pytest.skip("this user may not lock so much memory (ulimit -l)")
    assert run_mlock_trial(model, None)[0] == "ok"


def test_backend_is_the_device_name_without_its_number() -> None:
    assert [backend(name) for name in ("CUDA0", "Vulkan12", "MTL0")] == ["CUDA", "Vulkan", "MTL"]

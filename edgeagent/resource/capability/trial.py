"""One child process under limits, and what became of it in words."""

import asyncio
import hashlib
import importlib.metadata
import math
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edgeagent.core.errors import EdgeAgentError, EngineLostError
from edgeagent.core.hardware import CapabilityVerdict
from edgeagent.execution.channel import Message
from edgeagent.execution.confine import MAX_OOM_SCORE, WorkerLimits
from edgeagent.execution.loss import Cause
from edgeagent.execution.supervisor import Worker

DISTRIBUTIONS = {
    "llama": ("llama-cpp-python",),
    "onnxruntime": (
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-qnn",
        "onnxruntime-openvino",
        "onnxruntime-directml",
    ),
    "litert": ("ai-edge-litert", "tflite-runtime"),
}
"""Packages that bring an engine, the first installed one counts."""
ABSENT = "absent"

TIMEOUT_S = 120.0
"""As for the engine probe: 1.5 GB from an SD card at 20 MB/s take 75 s, and a GPU compiles its shaders first."""
NEVER_S = 10 * TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Limits:
    """What one trial may take. `address_bytes` 0: no limit."""

    timeout_s: float = TIMEOUT_S
    address_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reply` and `bulk` are there when the verdict is ok: the worker answered, right or wrong."""

    verdict: CapabilityVerdict
    reason: str = ""
    reply: Message | None = None
    bulk: bytes = b""


SpawnLimited = Callable[[str, Limits], Awaitable[Worker]]
"""Starts a fresh worker for an engine under limits."""


def engine_builds() -> dict[str, str]:
    """Version and a digest of the installed files of each engine's package: a rebuild counts as another engine."""
    return {engine: build_of(packages) for engine, packages in DISTRIBUTIONS.items()}


def build_of(packages: tuple[str, ...]) -> str:
    """The build of the first of these packages that is installed, or ABSENT."""
    for package in packages:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        record = distribution.read_text("RECORD") or ""
        return f"{distribution.version}+{hashlib.sha256(record.encode()).hexdigest()[:12]}"
    return ABSENT


async def spawn_limited(engine: str, limits: Limits, kind: type[Worker] = Worker) -> Worker:
    """A worker with these limits, the first to be ended when memory runs out. The timeout is the caller's to keep."""
    cpu_s = math.ceil(limits.timeout_s)
    allowed = WorkerLimits(address_bytes=limits.address_bytes, cpu_s=cpu_s, oom_score=MAX_OOM_SCORE)
    return await kind.spawn(engine, limits=allowed, is_quiet=True)


async def run_trial(engine: str, op: str, *, limits: Limits, spawn: SpawnLimited, **params: object) -> Outcome:
    """One operation in a fresh worker that is gone afterwards. Never raises for what the worker does."""
    worker = await spawn(engine, limits)
    try:
        async with asyncio.timeout(limits.timeout_s):
            reply, bulk = await worker.call(op, (), stall_s=NEVER_S, **params)
        return Outcome("ok", reply=reply, bulk=bulk)
    except TimeoutError:
        return Outcome("hung", f"no answer in {limits.timeout_s:.0f} s")
    except EngineLostError as error:
        return _death(worker, limits, str(error).partition(";")[0])
    except EdgeAgentError as error:
        return Outcome("failed", str(error).partition(";")[0] + _within(limits))
    finally:
        await worker.close()


def _death(worker: Worker, limits: Limits, told: str) -> Outcome:
    if worker.cause is Cause.OVERRAN:
        return Outcome("hung", f"no answer after {limits.timeout_s:.0f} s of CPU time")
    if worker.cause in {Cause.STOPPED, Cause.STUCK}:
        return Outcome("hung", told)
    status = worker.exit_status
    if status is not None and status < 0 and status != -signal.SIGKILL:  # SIGKILL may be the supervisor's own
        return Outcome("crashed", f"its process was ended by {signal.Signals(-status).name}{_within(limits)}")
    return Outcome("crashed", f"{told}{_within(limits)}")


def _within(limits: Limits) -> str:
    return f" (in {limits.address_bytes / 2**20:.0f} MiB of address space)" if limits.address_bytes else ""

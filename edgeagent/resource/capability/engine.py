"""What an engine can do here, found out in child processes that may die: the daemon only reads the verdict."""

import asyncio
import hashlib
import importlib.metadata
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from edgeagent.core.cards import KvType
from edgeagent.core.errors import EdgeAgentError, EngineLostError
from edgeagent.core.hardware import EngineFacts, Verdict
from edgeagent.core.invariance import EvaluationSettings
from edgeagent.execution import releases
from edgeagent.execution.loss import Cause
from edgeagent.execution.supervisor import Worker

ENGINE = "llama"
DISTRIBUTION = "llama-cpp-python"
NOT_INSTALLED = "absent"
CONTEXT_TOKENS = 512
TRIAL_DECODE_TOKENS = 4
TRIAL_TIMEOUT_S = 120.0
"""A trial loads a model, perhaps from an SD card: 1.5 GB at 20 MB/s take 75 s."""

Outcome = Literal["ok", "crashed", "hung", "failed"]
Spawn = Callable[[], Awaitable[Worker]]
"""Starts a fresh engine worker."""


@dataclass(frozen=True, slots=True)
class ProbeModel:
    """The file an engine is tried and timed with. `key` is `<model id>/<variant>`."""

    key: str
    path: Path
    kv_type: KvType
    chunk_tokens: int
    active_weights: int | None = None
    """Weights that each prompt token passes through; None: not known."""
    evaluation: EvaluationSettings | None = None
    """How it is going to be evaluated: a profile then says what changes no bit of that; None: nobody asks."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Switches of the engine that crash on some machines and are wanted on others."""

    extra_buffers: bool
    flash_attention: bool

    def __str__(self) -> str:
        return ", ".join(f"{name} {'on' if value else 'off'}" for name, value in asdict(self).items())


PREFERENCE = (
    EngineSettings(extra_buffers=True, flash_attention=True),
    EngineSettings(extra_buffers=False, flash_attention=True),
    EngineSettings(extra_buffers=True, flash_attention=False),
    EngineSettings(extra_buffers=False, flash_attention=False),
)
"""Fastest first. Extra buffers repack weights on Arm, and crash llama.cpp on CPUs that advertise AMX."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one set of settings in one child process."""

    outcome: Outcome
    reason: str = ""
    version: str = ""
    flags: dict[str, bool] = field(default_factory=dict)
    """Instruction sets the engine was built for or found, as it names them."""


TrySettings = Callable[[EngineSettings], Awaitable[Trial]]


async def spawn_engine() -> Worker:
    return await Worker.spawn(ENGINE)


def engine_build() -> str:
    """Version and a digest of the installed files of the engine's package: a rebuild counts as another engine."""
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
    record = distribution.read_text("RECORD") or ""
    return f"{distribution.version}+{hashlib.sha256(record.encode()).hexdigest()[:12]}"


def release_fault(build: str) -> str:
    """Why the installed release is not even tried, and after a semicolon what to do; empty: it can be."""
    return "" if build == NOT_INSTALLED else releases.fault(build.partition("+")[0])


async def probe_engine(try_settings: TrySettings) -> EngineFacts:
    """Try settings in order of preference until some work.

    The verdict is that of the preferred settings, whatever less preferred ones then made possible; its `settings` are
    the first that worked, and are empty when none did.
    """
    first: Trial | None = None
    for settings in PREFERENCE:
        trial = await try_settings(settings)
        first = first or trial
        if trial.outcome == "ok":
            return _facts(first, trial, settings)
    assert first is not None
    return _facts(first, first, None)


def _facts(first: Trial, last: Trial, safe: EngineSettings | None) -> EngineFacts:
    if first.outcome == "ok":
        reason = f"works with {safe}"
    else:
        reason = f"{first.reason}; " + (f"safe: {safe}" if safe else "no settings work")
    verdict = Verdict(verdict=first.outcome, reason=reason, settings=asdict(safe) if safe else {})
    return EngineFacts(name=ENGINE, version=last.version, usable=safe is not None, flags=last.flags, probe=verdict)


def is_conclusive(engine: EngineFacts) -> bool:
    """Whether trying again could teach nothing new: it works, or it broke (and not just the file it was tried with)."""
    return engine.usable or engine.probe.verdict in {"crashed", "hung"}


def untested(version: str, reason: str) -> EngineFacts:
    """Facts about an engine that could not be tried yet."""
    return EngineFacts(name=ENGINE, version=version, usable=False, probe=Verdict(verdict="untested", reason=reason))


def refused(build: str) -> EngineFacts:
    """Facts about a release that is not known: no worker would call anything of it."""
    version, reason = build.partition("+")[0], release_fault(build).partition(";")[0]
    return EngineFacts(name=ENGINE, version=version, usable=False, probe=Verdict(verdict="failed", reason=reason))


async def try_engine(
    model: ProbeModel,
    settings: EngineSettings,
    *,
    spawn: Spawn = spawn_engine,
    timeout_s: float = TRIAL_TIMEOUT_S,
) -> Trial:
    """Load the model and evaluate a few tokens in a fresh worker. Never raises for what the worker does."""
    worker = await spawn()
    try:
        async with asyncio.timeout(timeout_s):
            return await _evaluate(worker, model, settings)
    except TimeoutError:
        return Trial("hung", f"no answer in {timeout_s:g} s with {settings}")
    except EngineLostError as error:
        outcome: Outcome = "hung" if worker.cause in {Cause.STOPPED, Cause.STUCK} else "crashed"
        return Trial(outcome, f"{_what(error)} with {settings}")
    except EdgeAgentError as error:
        return Trial("failed", f"{_what(error)} (with {settings})")
    finally:
        await worker.close()


async def _evaluate(worker: Worker, model: ProbeModel, settings: EngineSettings) -> Trial:
    never = TRIAL_TIMEOUT_S * 10  # the deadline around us decides what counts as hung
    about, _ = await worker.call("version", stall_s=never)
    await load(worker, model, settings, threads=1, stall_s=never)
    one_chunk = min(model.chunk_tokens, CONTEXT_TOKENS // 2)  # kernels differ for batches and single tokens: run both
    await worker.call("bench", stall_s=never, prompt_tokens=one_chunk, decode_tokens=TRIAL_DECODE_TOKENS)
    return Trial("ok", version=str(about["version"]), flags=parse_flags(str(about["system"])))


async def load(
    worker: Worker,
    model: ProbeModel,
    settings: EngineSettings,
    *,
    threads: int,
    context_tokens: int = CONTEXT_TOKENS,
    stall_s: float = TRIAL_TIMEOUT_S,
) -> None:
    """Load the probe's model in a worker. Raises EngineError, ModelFileError or OutOfMemoryError."""
    await worker.call(
        "load",
        stall_s=stall_s,
        path=str(model.path),
        context_tokens=context_tokens,
        kv_type=model.kv_type,
        threads=threads,
        chunk_tokens=model.chunk_tokens,
        **asdict(settings),
    )


def parse_flags(system: str) -> dict[str, bool]:
    """`CPU : AVX2 = 1 | LLAMAFILE = 1 |` as names and truths."""
    flags: dict[str, bool] = {}
    for part in system.replace(":", "|").split("|"):
        name, separator, value = part.partition("=")
        if separator and value.strip() in {"0", "1"}:
            flags[name.strip()] = value.strip() == "1"
    return flags


def _what(error: EdgeAgentError) -> str:
    return str(error).partition(";")[0]

"""One deep look at the machine: the disk, what changes no bit, what the engines can do, the machine's arithmetic."""

import asyncio
import tempfile
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.hardware import EngineFacts, Profile
from edgeagent.resource.cache import save_profile
from edgeagent.resource.calibration import Instruments, thread_candidates
from edgeagent.resource.capability import (
    ENGINE,
    EngineSettings,
    ProbeModel,
    Survey,
    probe_capabilities,
    with_usable,
)
from edgeagent.resource.disk import read_rate
from edgeagent.resource.invariance import BUDGET_S as INVARIANCE_BUDGET_S
from edgeagent.resource.invariance import is_probed, probed, usual_evaluation
from edgeagent.resource.kernel_pass import BUDGET_S, Pass, Progress, complete
from edgeagent.resource.kernels import MAX_FILE_BYTES, RigBench
from edgeagent.resource.machine import Places
from edgeagent.resource.probes.cpu import read_cache_bytes
from edgeagent.resource.probes.sysroot import Sysroot

DISK_S = 0.5
"""How long the disk is read for its rate."""
INVARIANCE_PART = 0.5
SURVEY_PART = 0.4
"""Of a pass's budget, at most so much goes to trying what the engines can do."""
MIN_TRIAL_S = 30.0
"""A child that loads a model from a slow card needs so long, whatever the budget."""


class Depth(Enum):
    """`NEEDED`: what answering with a variant takes, seconds. `ALL`: the whole measuring pass, a minute."""

    NEEDED = "needed"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured now: within `budget_s` seconds (of the pass), telling `progress`.

    `encoder` is the sentence encoder's file, if it is here: a pass tries ONNX Runtime's providers with it.
    """

    depth: Depth = Depth.NEEDED
    encoder: Path | None = None
    budget_s: float = BUDGET_S
    progress: Progress = lambda _what, _share: None


async def deepened(
    profile: Profile, model: ProbeModel, places: Places, instruments: Instruments, effort: Effort
) -> Profile:
    """The profile with what a pass adds: the disk's rate, what engines can do, the machine's arithmetic."""
    started = instruments.clock()
    if profile.storage.read_bytes_s is None:
        rate = await asyncio.to_thread(read_rate, model.path, DISK_S)
        profile = profile.model_copy(update={"storage": profile.storage.model_copy(update={"read_bytes_s": rate})})
    usual = replace(model, evaluation=model.evaluation or usual_evaluation(profile, model))
    if not is_probed(profile, usual, wholly=True):
        effort.progress("what changes no bit", 0.0)
        budget_s = max(INVARIANCE_BUDGET_S, effort.budget_s * INVARIANCE_PART)
        profile = await probed(profile, usual, spawn=instruments.spawn, budget_s=budget_s)
    profile = await _surveyed(profile, model, places, instruments, effort)
    engine = profile.engine(ENGINE)
    left_s = effort.budget_s - (instruments.clock() - started)
    if engine is None or not engine.usable or left_s <= 0:
        return profile
    with tempfile.TemporaryDirectory(prefix="rigs-", dir=places.cache.parent) as folder:
        rest = replace(effort, budget_s=left_s)
        work = _pass(profile, engine, model, Path(folder), places.cache, instruments, rest)
        try:
            kernels = await complete(profile.kernels, work)
        except EdgeAgentError as error:
            return profile.with_gap("kernels", f"unreadable: {error}")
    return profile.model_copy(update={"kernels": kernels})


async def _surveyed(
    profile: Profile, model: ProbeModel, places: Places, instruments: Instruments, effort: Effort
) -> Profile:
    """The profile with verdicts on what engines can do, as many as a part of the budget allows."""

    def taking(survey: Survey) -> Profile:
        usable = with_usable(profile.accelerators, survey.engines)
        return profile.model_copy(update={"engines": survey.engines, "accelerators": usable})

    budget_s = effort.budget_s * SURVEY_PART
    survey = await probe_capabilities(
        model,
        profile.engines,
        today=instruments.today(),
        budget_s=budget_s,
        clock=instruments.clock,
        onnx_model=effort.encoder,
        trial_s=max(budget_s, MIN_TRIAL_S),
        progress=lambda what, share: effort.progress(f"what the engines can do: {what}", share * SURVEY_PART),
        keep=lambda survey: save_profile(places.cache, taking(survey)),
    )
    surveyed = taking(survey)
    return surveyed.with_gap("capabilities", f"not tried yet: {', '.join(survey.left)}") if survey.left else surveyed


def _pass(
    profile: Profile,
    engine: EngineFacts,
    model: ProbeModel,
    folder: Path,
    cache: Path,
    instruments: Instruments,
    effort: Effort,
) -> Pass:
    settings = EngineSettings(**engine.probe.settings)
    bench = RigBench(
        spawn=instruments.spawn,
        settings=settings,
        kv_type=model.kv_type if settings.flash_attention else "f16",
        chunk_tokens=model.chunk_tokens,
        threads=thread_candidates(profile.cpu.cores),
        folder=folder,
        cache_bytes=read_cache_bytes(Sysroot()),
        max_bytes=min(MAX_FILE_BYTES, profile.memory.available_bytes // 4, profile.storage.free_bytes // 4),
    )
    return Pass(
        bench=bench,
        clock=instruments.clock,
        today=instruments.today(),
        budget_s=effort.budget_s,
        progress=effort.progress,
        keep=lambda kernels: save_profile(cache, profile.model_copy(update={"kernels": kernels})),
    )

"""Every capability of every engine, tried in order of worth within a budget; what is known is not tried again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from edgeagent.core.hardware import Capability, CapabilityVerdict, EngineFacts, Verdict
from edgeagent.resource.capability import litert, llama, onnxruntime
from edgeagent.resource.capability.engine import ProbeModel
from edgeagent.resource.capability.judging import Judged
from edgeagent.resource.capability.trial import ABSENT, TIMEOUT_S, SpawnLimited, engine_builds, spawn_limited

ORDER = (
    ("llama", "gpu_layers"),
    ("llama", "kv_q8_0"),
    ("llama", "flash_attention"),
    ("llama", "extra_buffers"),
    ("onnxruntime", onnxruntime.CPU),
    ("litert", litert.CPU),
    ("onnxruntime", ""),
    ("litert", ""),
    ("llama", ""),
)
"""What changes answers' speed and memory most comes first. An empty name stands for the engine's others."""
EngineVerdict = Literal["ok", "crashed", "hung", "failed"]
CPU_CAPABILITY = {"onnxruntime": onnxruntime.CPU, "litert": litert.CPU}


class Trials(Protocol):
    """One engine's trials."""

    async def judge(self, name: str) -> Judged: ...


@dataclass(frozen=True, slots=True)
class Survey:
    """The engines as far as known; `left` are `<engine> <capability>` for which there was no time, or no model."""

    engines: tuple[EngineFacts, ...]
    left: tuple[str, ...] = ()


@dataclass(slots=True)
class _Pass:
    """One pass: the facts so far, and who can try more."""

    facts: dict[str, EngineFacts]
    trials: dict[str, Trials] = field(default_factory=dict)
    todo: list[tuple[str, str]] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    """What was not there the last time, which costs nothing to see (a library's file)."""
    left: list[str] = field(default_factory=list)

    def plan(self, engine: str, trials: Trials | None, names: Sequence[str]) -> None:
        """Queue what is not known."""
        known = {c.name: c.verdict for c in self.facts[engine].capabilities}
        missing = [name for name in names if name not in known]
        if trials is None:
            self.left += [f"{engine} {name}" for name in missing]
            return
        self.trials[engine] = trials
        self.todo += [(engine, name) for name in missing]
        if engine != llama.ENGINE:
            self.absent += [(engine, name) for name in names if known.get(name) == "absent"]

    def record(self, engine: str, name: str, judged: Judged, today: str) -> None:
        capability = Capability(name=name, verdict=judged.verdict, reason=judged.reason, at=today)
        before = self.facts[engine]
        kept = tuple(c for c in before.capabilities if c.name != capability.name)
        update = {"capabilities": (*kept, capability), "flags": {**before.flags, **judged.flags}}
        after = before.model_copy(update=update)
        if capability.name == CPU_CAPABILITY.get(engine):
            after = _with_verdict(after, capability)
        self.facts[engine] = after

    def survey(self, unfinished: Sequence[tuple[str, str]]) -> Survey:
        return Survey(tuple(self.facts.values()), (*self.left, *(f"{engine} {name}" for engine, name in unfinished)))


async def probe_capabilities(
    model: ProbeModel | None,
    engines: Sequence[EngineFacts],
    *,
    today: str,
    budget_s: float,
    clock: Callable[[], float],
    onnx_model: Path | None = None,
    spawn: SpawnLimited = spawn_limited,
    trial_s: float = TIMEOUT_S,
    progress: Callable[[str, float], None] = lambda _what, _share: None,
    keep: Callable[[Survey], None] = lambda _: None,
) -> Survey:
    """`engines` with a verdict for each capability, those of ONNX Runtime and LiteRT added when they are not there.

    No trial starts after `budget_s`; one that has started may take `trial_s`, and then counts as hung. A capability
    that has a verdict under the same engine version is not tried again, whatever the verdict, but for libraries that
    are there now and were not. `progress` hears of every trial before it, and which part of them is done; `keep` sees
    the survey after it, so that an interrupted pass loses one. Without a model, or with an unusable engine, llama.cpp's
    are left.
    """
    deadline = clock() + budget_s
    state = _Pass({engine.name: engine for engine in engines})
    _plan_llama(state, model, spawn, trial_s)
    await _plan_onnxruntime(state, onnx_model, spawn, trial_s)
    _plan_litert(state, spawn, trial_s)
    todo = sorted(state.todo, key=_worth)
    num_trials = len(todo)
    while todo and clock() < deadline:
        progress("{} {}".format(*todo[0]), 1 - len(todo) / num_trials)
        engine, name = todo.pop(0)
        state.record(engine, name, await state.trials[engine].judge(name), today)
        keep(state.survey(todo))
    for engine, name in state.absent:
        state.record(engine, name, await state.trials[engine].judge(name), today)
    return state.survey(todo)


def _worth(item: tuple[str, str]) -> int:
    engine, _ = item
    return ORDER.index(item) if item in ORDER else ORDER.index((engine, ""))


def _plan_llama(state: _Pass, model: ProbeModel | None, spawn: SpawnLimited, trial_s: float) -> None:
    facts = state.facts.get(llama.ENGINE)
    if facts is not None:
        trials = llama.LlamaTrials(model, spawn, trial_s) if model and facts.usable else None
        state.plan(llama.ENGINE, trials, tuple(llama.CHANGES))


async def _plan_onnxruntime(state: _Pass, model: Path | None, spawn: SpawnLimited, trial_s: float) -> None:
    """The providers are asked for once a version, in a child: importing the library is the first that can fail."""
    if not _is_installed(state, onnxruntime.ENGINE, "pip install onnxruntime"):
        return
    trials = onnxruntime.OnnxTrials(model, spawn, trial_s)
    facts = state.facts[onnxruntime.ENGINE]
    if not facts.flags:
        answer = await trials.providers()
        if answer.reply is None:
            verdict = Verdict(verdict=_engine_verdict(answer.verdict), reason=answer.reason)
            state.facts[facts.name] = facts.model_copy(update={"probe": verdict})
            return
        facts = facts.model_copy(update={"flags": dict.fromkeys(map(str, answer.reply["providers"]), True)})
        state.facts[facts.name] = facts
    state.plan(facts.name, trials, tuple(facts.flags))


def _plan_litert(state: _Pass, spawn: SpawnLimited, trial_s: float) -> None:
    if _is_installed(state, litert.ENGINE, "pip install 'edgeagent[litert]'"):
        trials = litert.LitertTrials(spawn, trial_s)
        state.plan(litert.ENGINE, trials, trials.names)


def _is_installed(state: _Pass, engine: str, remedy: str) -> bool:
    """Make sure that there are facts about this version of an engine; older ones are dropped."""
    version = engine_builds()[engine].partition("+")[0]
    known = state.facts.get(engine)
    if known is None or known.version != version:
        absent = version == ABSENT
        reason = f"its package is not installed here ({remedy})" if absent else "not tried yet"
        probe = Verdict(verdict="untested", reason=reason)
        state.facts[engine] = EngineFacts(name=engine, version=version, usable=False, probe=probe)
    return version != ABSENT


def _with_verdict(facts: EngineFacts, capability: Capability) -> EngineFacts:
    """An engine other than llama.cpp is as usable as its CPU way is."""
    verdict = Verdict(verdict=_engine_verdict(capability.verdict), reason=capability.reason)
    return facts.model_copy(update={"usable": capability.verdict == "ok", "probe": verdict})


def _engine_verdict(verdict: CapabilityVerdict) -> EngineVerdict:
    return "failed" if verdict == "absent" else verdict

"""Finds out, in a worker, which ways to evaluate a variant change no bit here, and under which key that is kept."""

from dataclasses import asdict

from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.hardware import Profile
from edgeagent.core.invariance import EvaluationSettings, Invariance, conclude
from edgeagent.resource.capability import ENGINE, EngineSettings, ProbeModel, Spawn
from edgeagent.resource.capability.engine import TRIAL_TIMEOUT_S
from edgeagent.resource.capability.llama import TEXT

BUDGET_S = 20.0
"""What a probe may take beside loading. SmolLM2 135M took 17 s of CPU time with one thread on a busy x86 machine; what
a slower one does not reach counts as not invariant, until a pass (`edgeagent profile`) has time for it."""

OTHER_TEXT = (
    "In 1997 the canal was 41 km long; its 12 locks lift boats by 3.5 m each. def total(items): return sum(i.price for"
    " i in items)  # EUR. Who pays? Nobody knows yet -- ask again at 10:45. Ein kurzer Satz auf Deutsch, puis une"
    " phrase en français."
)
"""Unlike the first in everything a tokenizer sees: digits, code, other languages."""


def usual_evaluation(profile: Profile, model: ProbeModel) -> EvaluationSettings | None:
    """How the model is evaluated here when nobody asks otherwise; None before its rates were measured."""
    engine, rates = profile.engine(ENGINE), profile.rates.get(model.key)
    if engine is None or not engine.usable or rates is None:
        return None
    safe = EngineSettings(**engine.probe.settings)
    return EvaluationSettings(
        kv_type=model.kv_type if safe.flash_attention else "f16",
        flash_attention=safe.flash_attention,
        extra_buffers=safe.extra_buffers,
        threads=rates.threads,
        chunk_tokens=model.chunk_tokens,
    )


def verdict(profile: Profile, variant: str, evaluation: EvaluationSettings) -> Invariance:
    """What is known of `<model id>/<variant>` under these settings; nothing, which is safe, before it was probed."""
    return profile.invariance.get(evaluation.key(variant), Invariance())


def is_probed(profile: Profile, model: ProbeModel, *, wholly: bool = False) -> bool:
    """Whether the profile says what it was asked (`ProbeModel.evaluation`); `wholly`: no check was left out."""
    if model.evaluation is None:
        return True
    found = profile.invariance.get(model.evaluation.key(model.key))
    return found is not None and (found.complete or not wholly)


async def probed(profile: Profile, model: ProbeModel, *, spawn: Spawn, budget_s: float = BUDGET_S) -> Profile:
    """The profile with a verdict on `model.evaluation`.

    Where the probe fails the verdict is that nothing is known, so that requests do not try again; a gap says why.
    """
    assert model.evaluation is not None
    gaps = profile.gaps
    try:
        found = await measure_invariance(model, model.evaluation, spawn=spawn, budget_s=budget_s)
    except EdgeAgentError as error:
        found, gaps = Invariance(), {**gaps, f"invariance.{model.key}": f"unreadable: {error}"}
    verdicts = {**profile.invariance, model.evaluation.key(model.key): found}
    return profile.model_copy(update={"invariance": verdicts, "gaps": gaps})


async def measure_invariance(
    model: ProbeModel, evaluation: EvaluationSettings, *, spawn: Spawn, budget_s: float = BUDGET_S
) -> Invariance:
    """Every check the budget has time for. Raises EngineError, ModelFileError, OutOfMemoryError."""
    worker = await spawn()
    try:
        reply, _ = await worker.call(
            "invariance",
            stall_s=TRIAL_TIMEOUT_S,
            path=str(model.path),
            texts=[TEXT, OTHER_TEXT],
            budget_s=budget_s,
            **asdict(evaluation),
        )
    finally:
        await worker.close()
    worst = {str(check): float(difference) for check, difference in reply["worst"].items()}
    return conclude(worst, has_window=bool(reply["has_window"]), complete=bool(reply["complete"]))

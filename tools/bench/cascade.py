"""What does a cascade of two models give? Accuracy, share of questions passed on and cost, on questions not seen.

Every model answers every question of `tools/data/cascade-questions.jsonl`, greedily and as the assistant asks; which
comes first alternates. Each fifth of the questions is then judged by a calibration on the other four fifths (fit,
threshold and early rule; see `edgeagent.model.cascade`), so that no figure comes from a question that taught it. The
cost is CPU seconds of the engine's worker; a small answer that is left early is counted whole.

The question marks of such a cascade: does its confidence tell right from wrong (AUROC; 0.5 is a coin), is it honest
(expected calibration error), and is the cascade better than passing on as many questions at random?
"""

import asyncio
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import harness
import psutil

from edgeagent.agent.calibrating import Answered, Examiner
from edgeagent.core.generation import TokenStep
from edgeagent.daemon import open_house
from edgeagent.model.cascade import Fit, Outcome, Target, calibrate, confidence_of
from edgeagent.model.confidence import FOLDS, auroc, calibration_error, fold_of
from edgeagent.model.grading import Item, read_items
from edgeagent.model.resident import Resident
from edgeagent.model.watch import Watch
from edgeagent.resource.capability import engine_build
from edgeagent.settings import load_settings

DATA = harness.ROOT / "tools/data"
QUESTIONS = DATA / "cascade-questions.jsonl"
NOTES = ("house-notes.md", "house-notes-more.md")
"""The text on which layers are judged: none of the questions."""
MODEL = harness.CHAT_MODEL
FULL = f"{MODEL}/Q4_1"
PAIRS = ((f"{MODEL}/Q4_1-d28", FULL), (f"{MODEL}/Q2_K", FULL))
QUICK_PAIRS = PAIRS[:1]
QUICK_QUESTIONS = 60
MAX_TOKENS = 48
BUDGETS = (0.25, 0.5, 0.75)
SEED = 7
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Try:
    """One model's answer to one question; `cpu_s` is its worker's."""

    answered: Answered
    is_right: bool
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Judged:
    """One question of a fold, judged by the calibration of the others."""

    stands: bool
    is_early: bool
    confidence: float
    """Of the whole answer."""


def make_variants(env: dict[str, str], pairs: Sequence[tuple[str, str]]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.write("".join((DATA / name).read_text(encoding="utf-8") for name in NOTES))
        text.flush()
        for name in {small.partition("/")[2] for small, _ in pairs}:
            _, is_pruned, layers = name.partition("-d")
            made = ["prune", MODEL, "--layers", layers, "--calibration", text.name, "--variant", "Q4_1"]
            command = made if is_pruned else ["quantize", MODEL, name]
            whole = [sys.executable, "-m", "edgeagent", "models", *command]
            subprocess.run(whole, env=env, check=True, stdout=subprocess.DEVNULL)


async def answers(names: Sequence[str], items: Sequence[Item]) -> dict[str, list[Try]]:
    """Every model's answers. All models stay loaded."""
    async with open_house(load_settings(), role="bench") as house:
        examiner = Examiner(house.pool, house.assistant.answerer, MAX_TOKENS)
        residents = {name: await house.pool.get(name) for name in names}
        for name in names:
            await examiner.small(items[0], name)  # the first one loads the model and evaluates the front
        found: dict[str, list[Try]] = {name: [] for name in names}
        for number, item in enumerate(items):
            order = names if number % 2 else list(reversed(names))
            for name in order:
                found[name].append(await attempt(examiner, item, name, residents[name]))
            if number % 20 == 0:
                harness.progress(f"question {number} of {len(items)}")
    return found


async def attempt(examiner: Examiner, item: Item, name: str, resident: Resident) -> Try:
    while True:
        before, pid = _cpu_s(resident), resident.local.pid
        answered = await examiner.small(item, name)
        if resident.local.pid == pid:
            return Try(answered, item.accepts(answered.text), _cpu_s(resident) - before)
        harness.progress(f"{name}: its worker was replaced; asking again")


def _cpu_s(resident: Resident) -> float:
    assert resident.local.pid is not None
    spent = psutil.Process(resident.local.pid).cpu_times()
    return float(spent.user + spent.system)


def held_out(outcomes: Sequence[Outcome], target: Target) -> list[Judged]:
    """Each question judged by a calibration that did not see it."""
    folds = fold_of([o.is_right for o in outcomes])
    found: dict[int, Judged] = {}
    for fold in range(FOLDS):
        fitted = calibrate([o for o, own in zip(outcomes, folds, strict=True) if own != fold], target)
        for i in (i for i, own in enumerate(folds) if own == fold):
            found[i] = judge(fitted, outcomes[i])
    return [found[i] for i in range(len(outcomes))]


def judge(fitted: Fit, outcome: Outcome) -> Judged:
    """The answer replayed token by token, as the assistant sees it."""
    watch, verdict = Watch(fitted), None
    for token in outcome.tokens:
        if (verdict := watch.add([token])) is not None:
            break
    stands = watch.end(is_cut=outcome.is_cut) if verdict is None else verdict
    whole: Sequence[TokenStep] = outcome.tokens
    return Judged(stands, verdict is not None, confidence_of(fitted.confidence, whole, is_cut=outcome.is_cut))


def cascade_figures(
    outcomes: Sequence[Outcome], small: Sequence[Try], larger: Sequence[Try], target: Target
) -> harness.Json:
    judged, count = held_out(outcomes, target), len(outcomes)
    right = sum(s.is_right if j.stands else b.is_right for j, s, b in zip(judged, small, larger, strict=True)) / count
    asked = sum(not j.stands for j in judged) / count
    stood = [s.is_right for j, s in zip(judged, small, strict=True) if j.stands]
    alone, second = accuracy(small), accuracy(larger)
    passed_s = sum(b.cpu_s for j, b in zip(judged, larger, strict=True) if not j.stands) / count
    return {
        "accuracy": right,
        "share_asked": asked,
        "gain_over_random": right - (alone + asked * (second - alone)),
        "standing_accuracy": sum(stood) / len(stood) if stood else None,
        "early_share": sum(j.is_early for j in judged) / count,
        "cost_cpu_s": statistics.fmean(s.cpu_s for s in small) + passed_s,
    }


def accuracy(tries: Sequence[Try]) -> float:
    return statistics.fmean(t.is_right for t in tries)


def pair_figures(small: Sequence[Try], larger: Sequence[Try]) -> tuple[harness.Json, harness.Json]:
    """Figures of a pair, and their spread."""
    outcomes = [
        Outcome(s.answered.tokens, s.answered.is_cut, s.is_right, s.answered.seconds, b.is_right, b.answered.seconds)
        for s, b in zip(small, larger, strict=True)
    ]
    labels = [o.is_right for o in outcomes]
    scores = [j.confidence for j in held_out([replace(o, larger_is_right=None) for o in outcomes], Target(budget=1))]
    figures = {
        "small_accuracy": accuracy(small),
        "larger_accuracy": accuracy(larger),
        "either_accuracy": statistics.fmean(s.is_right or b.is_right for s, b in zip(small, larger, strict=True)),
        "auroc": auroc(scores, labels),
        "calibration_error": calibration_error(scores, labels),
        "small_cpu_s": statistics.fmean(s.cpu_s for s in small),
        "larger_cpu_s": statistics.fmean(b.cpu_s for b in larger),
        "as_right_as_the_larger": cascade_figures(outcomes, small, larger, Target()),
        "budgets": {str(b): cascade_figures(outcomes, small, larger, Target(budget=b)) for b in BUDGETS},
    }
    error = {f"{key}_standard_error": _standard_error(figures[key], len(labels)) for key in ACCURACIES}
    by_chance = {"calibration_error_of_honest_scores": _honest_error(scores)}
    return figures, error | by_chance | {"auroc_95_percent": _auroc_interval(scores, labels)}


ACCURACIES = ("small_accuracy", "larger_accuracy")


def _standard_error(share: object, count: int) -> float:
    assert isinstance(share, float)
    return math.sqrt(share * (1 - share) / count)


def _honest_error(scores: Sequence[float]) -> float:
    """The calibration error to expect by chance alone, if each score were the very chance of being right."""
    draw = random.Random(SEED)
    drawn = ([draw.random() < score for score in scores] for _ in range(RESAMPLES))
    return statistics.fmean(calibration_error(scores, labels) for labels in drawn)


def _auroc_interval(scores: Sequence[float], labels: Sequence[bool]) -> list[float]:
    """The middle 95 % of resampled questions."""
    draw, found = random.Random(SEED), []
    for _ in range(RESAMPLES):
        places = draw.choices(range(len(labels)), k=len(labels))
        if 0 < sum(labels[i] for i in places) < len(places):
            found.append(auroc([scores[i] for i in places], [labels[i] for i in places]))
    return [harness.percentile(found, 0.025), harness.percentile(found, 0.975)]


def main() -> None:
    arguments = harness.options(__doc__)
    os.environ.update(harness.state_env() | harness.UNGOVERNED | {"EDGEAGENT__MQTT__URL": ""})
    pairs = QUICK_PAIRS if arguments.quick else PAIRS
    make_variants(dict(os.environ), pairs)
    items = read_items(QUESTIONS.read_bytes(), QUESTIONS.name)
    if arguments.quick:
        items = random.Random(SEED).sample(items, QUICK_QUESTIONS)
    found = asyncio.run(answers(list(dict.fromkeys(name for pair in pairs for name in pair)), items))
    results = {f"{small} then {larger}": pair_figures(found[small], found[larger]) for small, larger in pairs}
    first, _ = next(iter(results.values()))
    flat = {key: value for key, value in first.items() if not isinstance(value, dict)}
    figures = flat | {f"cascade_{key}": value for key, value in first["as_right_as_the_larger"].items()}
    conditions = {
        "questions": len(items),
        "sample": f"{QUICK_QUESTIONS} questions, seed {SEED}" if arguments.quick else "all questions",
        "max_tokens": MAX_TOKENS,
        "folds": FOLDS,
        "engine": f"llama-cpp-python {engine_build()}",
        "pair_of_the_figures": next(iter(results)),
        "spread": {name: spread for name, (_, spread) in results.items()},
    }
    harness.publish(
        "cascade",
        figures | {"pairs": {name: values for name, (values, _) in results.items()}},
        conditions,
        as_json=arguments.json,
    )


if __name__ == "__main__":
    main()

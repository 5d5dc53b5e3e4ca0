"""Does an answer survive its engine? The worker is killed, crashed or stopped at random; the words must be the same.

Each answer is first given undisturbed, alone, by an engine that keeps nothing. Then again, alone or beside three others
in one engine, greedy or seeded, and at a random token the worker gets SIGKILL, SIGSEGV or SIGSTOP. The daemon's own
parts notice it, start another worker, give it the cells that were kept, and go on from the journal.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import harness

from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.daemon import open_house
from edgeagent.execution.executors import LocalExecutor, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.local import LocalModel
from edgeagent.settings import load_settings

RUNS, QUICK_RUNS = 100, 12
SEED = 23
MAX_TOKENS = 72
TRIES = 4
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)
QUESTIONS = (
    "Tell me a short story about a lighthouse and a storm.",
    "Explain how bread is baked, step by step.",
    "What would you see on a walk along a river in spring? Be thorough. " * 12,
    "Describe an old railway station and the people who wait there. " * 20,
    "List ten things to take on a mountain hike, with a reason for each.",
    "Write a letter to a friend about a garden in autumn. " * 6,
)


@dataclass(slots=True)
class Outcome:
    runs: int = 0
    incomplete: int = 0
    mismatches: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    added_wait_s: list[float] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Killer:
    """Sends the signal when the watched answer has so many tokens."""

    model: LocalModel
    number: signal.Signals
    at: int
    sent_s: float = 0.0

    def saw(self, num_tokens: int) -> None:
        if num_tokens == self.at and self.model.pid is not None and not self.sent_s:
            os.kill(self.model.pid, self.number)
            self.sent_s = time.perf_counter()


async def answered(
    model: LocalModel, generation: Generation, killer: Killer | None = None, traffic: Traffic | None = None
) -> tuple[list[int], float]:
    """The tokens, and the longest wait for one of them behind the first."""
    tokens: list[int] = []
    last_s, longest_s = 0.0, 0.0
    steps = complete(generation, [LocalExecutor(model, traffic or Traffic())] * TRIES)
    async with contextlib.aclosing(steps):
        async for step in steps:
            if isinstance(step, TokenStep):
                now = time.perf_counter()
                longest_s = max(longest_s, now - last_s) if tokens else 0.0
                last_s = now
                tokens.append(step.token)
                if killer:
                    killer.saw(len(tokens))
    return tokens, longest_s


async def undisturbed(model: LocalModel, generations: Sequence[Generation]) -> dict[str, list[int]]:
    found = {}
    plain = LocalModel(replace(model.settings, sequences=1, speculation=False))
    try:
        for generation in generations:
            found[generation.id] = (await answered(plain, generation))[0]
    finally:
        await plain.close()
    return found


async def generations_of(model: LocalModel) -> list[Generation]:
    made = []
    for temperature in (0.0, 0.8):
        for number, question in enumerate(QUESTIONS):
            prompt = await model.encode([{"role": "user", "content": question}])
            sampling = Sampling(temperature=temperature, seed=SEED + number)
            name = f"{number} at {temperature}"
            made.append(Generation(name, model.settings.variant_sha256, prompt, sampling, MAX_TOKENS))
    return made


async def disturb(model: LocalModel, generations: Sequence[Generation], runs: int) -> Outcome:
    expected, outcome, draw = await undisturbed(model, generations), Outcome(), random.Random(SEED)
    for number in range(runs):
        kind, count = SIGNALS[number % len(SIGNALS)], 4 if number % 2 else 1
        chosen = draw.sample(generations, count)
        at = draw.randrange(1, max(2, len(expected[chosen[0].id])))
        await _run(model, chosen, expected, Killer(model, kind, at), outcome)
        outcome.by_kind[f"{kind.name}, {count} answers"] = outcome.by_kind.get(f"{kind.name}, {count} answers", 0) + 1
        harness.progress(
            f"run {number + 1} of {runs}: {kind.name} at token {at} of {count}; {outcome.mismatches} differ"
        )
    return outcome


async def _run(
    model: LocalModel,
    chosen: Sequence[Generation],
    expected: dict[str, list[int]],
    killer: Killer,
    outcome: Outcome,
) -> None:
    traffics = [Traffic() for _ in chosen]
    tasks = [
        answered(
            model, replace(generation, id=f"{generation.id} in run {outcome.runs}"), None if i else killer, traffic
        )
        for i, (generation, traffic) in enumerate(zip(chosen, traffics, strict=True))
    ]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    outcome.runs += 1
    for generation, result, traffic in zip(chosen, results, traffics, strict=True):
        outcome.notes.update(traffic.notes)
        if isinstance(result, BaseException):
            outcome.incomplete += 1
            outcome.notes.add(f"{type(result).__name__}: {result}")
            continue
        outcome.mismatches += result[0] != expected[generation.id]
        if generation is chosen[0] and killer.sent_s:
            outcome.added_wait_s.append(result[1])


async def measured(*, quick: bool) -> tuple[harness.Json, harness.Json]:
    settings = load_settings(environment=harness.state_env() | harness.UNGOVERNED)
    async with open_house(settings, role="bench") as house:
        model = (await house.pool.get(harness.CHAT_MODEL)).whole
        outcome = await disturb(model, await generations_of(model), QUICK_RUNS if quick else RUNS)
        invariance = model.settings.invariance.model_dump(exclude={"max_abs_logit"})
    waits = outcome.added_wait_s
    figures = {
        "runs": outcome.runs,
        "incomplete": outcome.incomplete,
        "mismatches": outcome.mismatches,
        "added_wait_median_s": round(harness.percentile(waits, 0.5), 3),
        "added_wait_p95_s": round(harness.percentile(waits, 0.95), 3),
    }
    conditions = {
        "seed": SEED,
        "kinds": outcome.by_kind,
        "added_wait_s": harness.spread(waits),
        "notes": sorted(outcome.notes),
        "invariance": invariance,
    }
    return figures, conditions


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    figures, conditions = asyncio.run(measured(quick=options.quick))
    conditions["took_s"] = round(time.monotonic() - started, 1)
    harness.publish(Path(__file__).stem, figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()

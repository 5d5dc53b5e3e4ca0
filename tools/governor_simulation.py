"""The governor's policy over a simulated hour on an uncooled Raspberry Pi 5, against one that knows the future.

The same `step` runs here and in the daemon. A switch is a change of threads, variant, KV type, context or pause, or a
duty that has moved by more than a quarter since the last switch. Prints one JSON document; exit 1 off the bars.
`--seeds N` adds the worst of each case over N seeds of the sensor's noise.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from thermal_model import CORES, THROTTLE_C, Board, tok_s, watts

from edgeagent.core.governor import Conditions, EngineAdvice, Levers
from edgeagent.resource.governor import GovernorLimits, GovernorState, step

RUN_S, READING_S = 3600, 3
DUTY_SWITCH = 0.25
BAR_RATIO, BAR_SWITCHES, BAR_SWITCHES_STEP = 0.90, 4, 8
Ambient = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Case:
    """`noise_c` is uniform; zones tell multiples of `grain_c`. `rounds` of (busy, idle) seconds; None: always busy."""

    name: str
    board: Board = field(default_factory=Board)
    ambient: Ambient = lambda _: 25.0
    noise_c: float = 0.0
    grain_c: float = 0.0
    seed: int = 1
    run_s: int = RUN_S
    max_switches: int = BAR_SWITCHES

    def read(self, temperature_c: float, random_: random.Random) -> float:
        noisy = temperature_c + random_.uniform(-self.noise_c, self.noise_c)
        return round(noisy / self.grain_c) * self.grain_c if self.grain_c else noisy


@dataclass(slots=True)
class Run:
    tokens: float = 0.0
    max_c: float = 0.0
    throttled_s: int = 0
    throttled_at_s: int | None = None
    switches: list[dict[str, object]] = field(default_factory=list)
    trace: list[tuple[int, float, float]] = field(default_factory=list)

    def note(self, at_s: int, temperature_c: float, cores: float) -> None:
        self.tokens += tok_s(cores)
        self.max_c = max(self.max_c, temperature_c)
        if temperature_c >= THROTTLE_C:
            self.throttled_s += 1
            self.throttled_at_s = at_s if self.throttled_at_s is None else self.throttled_at_s
        self.trace.append((at_s, temperature_c, cores))


def ungoverned(case: Case) -> Run:
    """Four busy cores from the first second; the firmware's slowing is left out, so only its beginning is meant."""
    run, temperature = Run(), case.board.rest_c(case.ambient(0))
    for at_s in range(case.run_s):
        temperature = case.board.after(temperature, watts(CORES), case.ambient(at_s), 1)
        run.note(at_s, temperature, CORES)
    return run


def clairvoyant(case: Case) -> Run:
    """The most tokens below the limit: as hot as allowed as soon as possible, and then exactly there.

    Tokens are linear in watts, and watts over time are heat kept and heat lost; the loss grows with temperature, so
    no run that stays below the limit can do more work than the one that is hottest at every moment.
    """
    run, temperature = Run(), case.board.rest_c(case.ambient(0))
    for at_s in range(case.run_s):
        cores = float(CORES)
        if case.board.after(temperature, watts(cores), case.ambient(at_s), 1) > THROTTLE_C:
            cold = case.board.after(temperature, watts(0), case.ambient(at_s), 1)
            hot = case.board.after(temperature, watts(CORES), case.ambient(at_s), 1)
            cores = CORES * max(0.0, (THROTTLE_C - cold) / (hot - cold))
        temperature = case.board.after(temperature, watts(cores), case.ambient(at_s), 1)
        run.note(at_s, temperature, cores)
    return run


def governed(case: Case) -> Run:
    random_, run, temperature = random.Random(case.seed), Run(), case.board.rest_c(case.ambient(0))
    state, limits, advice = GovernorState(), GovernorLimits(), EngineAdvice()
    counted = EngineAdvice(threads=CORES)
    for at_s in range(case.run_s):
        if at_s % READING_S == 0:
            seen = Conditions(
                at_s=at_s,
                busy=1.0,
                engine_threads=CORES,
                cores=CORES,
                temperature_c=case.read(temperature, random_),
                throttle_c=THROTTLE_C,
            )
            state, advice = step(state, seen, Levers(), limits)
            if is_switch(counted, advice):
                counted = advice
                run.switches.append({"at_s": at_s, "threads": advice.threads or CORES, "duty": round(advice.duty, 2)})
        cores = (advice.threads or CORES) * advice.duty * (not advice.pause)
        temperature = case.board.after(temperature, watts(cores), case.ambient(at_s), 1)
        run.note(at_s, temperature, cores)
    return run


def is_switch(before: EngineAdvice, after: EngineAdvice) -> bool:
    def levers(a: EngineAdvice) -> tuple[object, ...]:
        return (a.threads or CORES, a.smaller_variant, a.kv_type, a.context_tokens, a.pause)

    return levers(before) != levers(after) or abs(before.duty - after.duty) > DUTY_SWITCH


def step_in_ambient(at_s: float) -> float:
    return 25.0 if at_s < 1200 else 35.0


def cases() -> list[Case]:
    real = {"noise_c": 0.5, "grain_c": 1.0}
    found = [
        Case("nominal"),
        Case("coarse and noisy sensor", **real),  # type: ignore[arg-type]
        Case("air from 25 to 35 °C at minute 20", ambient=step_in_ambient, max_switches=BAR_SWITCHES_STEP, **real),  # type: ignore[arg-type]
    ]
    for r in (0.8, 1.2):
        for c in (0.8, 1.2):
            board = Board().scaled(r, c)
            found.append(Case(f"R x {r}, C x {c}", board=board, **real))  # type: ignore[arg-type]
    return found


def judged(case: Case) -> dict[str, object]:
    free, best, run = ungoverned(case), clairvoyant(case), governed(case)
    ratio = run.tokens / best.tokens
    is_met = run.max_c < THROTTLE_C and ratio >= BAR_RATIO and len(run.switches) <= case.max_switches
    return {
        "case": case.name,
        "ungoverned_throttles_at_s": free.throttled_at_s,
        "max_c": round(run.max_c, 2),
        "tokens": round(run.tokens),
        "clairvoyant_tokens": round(best.tokens),
        "ratio": round(ratio, 4),
        "num_switches": len(run.switches),
        "max_switches": case.max_switches,
        "switches": run.switches,
        "met": is_met,
    }


def worst(case: Case, num_seeds: int) -> dict[str, object]:
    best, runs = clairvoyant(case), [governed(replace(case, seed=seed)) for seed in range(num_seeds)]
    return {
        "case": case.name,
        "max_c": round(max(run.max_c for run in runs), 2),
        "ratio": round(min(run.tokens for run in runs) / best.tokens, 4),
        "num_switches": sorted(len(run.switches) for run in runs),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, metavar="N")
    num_seeds = parser.parse_args().seeds
    results = [judged(case) for case in cases()]
    document = {"simulation": "governor", "run_s": RUN_S, "reading_s": READING_S, "cases": results}
    if num_seeds:
        document["seeds"] = [worst(case, num_seeds) for case in cases()]
    print(json.dumps(document, indent=2))
    return 0 if all(result["met"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How much later is the plan that was chosen than the best one? Cases are replayed from measured pieces.

The pieces (chunks, decode steps, heads, tails, splices) are timed on this machine, with an edge held to several shares
of a core, and a peer alone and beside another answer (`regret_measure`). Each candidate of a case then runs in
simulated time through the product's own planner, link measurement, executors, sessions and windows (`regret_world`);
only the engines are clocks. Some cases are also run for real, with daemon, peer and broker as processes
(`regret_real`), to see how far the replay is from them. Regret: total time of the chosen plan against that of the
fastest allowed one, minus 1.
"""

import asyncio
import hashlib
import itertools
import math
import multiprocessing
import pickle
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace

import harness
import regret_real
from regret_measure import can_hold, measure, settings_of_bench
from regret_pieces import KeptPieces, Measured
from regret_world import Case, Ran, World

from edgeagent.core.plan import Candidate, Decision
from edgeagent.resource.options import Rules
from edgeagent.resource.planner import decide

SHARES, QUICK_SHARES = (0.15, 0.4, 1.0), (0.4, 1.0)
LINKS = ((0.5, 0.05), (3.0, 0.02), (3.0, 0.15), (12.0, 0.05), (50.0, 0.005), (50.0, 0.04), (100.0, 0.15))
PROMPTS, QUICK_PROMPTS = (60, 200, 500, 950), (60, 200, 500)
OUTPUTS = (8, 32, 128)
NUM_CASES, QUICK_CASES = 300, 40
SEED = 5
KEEP_S = 7200.0
"""Pieces of an earlier run are taken for so long."""
RULES = {"text may leave": Rules(), "text stays": Rules(text_may_leave=False)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One case under one policy."""

    policy: str
    case: Case
    chosen: str
    best: str
    predicted_ttft_s: float
    ttft_s: float
    predicted_total_s: float
    total_s: float
    best_s: float

    @property
    def regret(self) -> float:
        return self.total_s / self.best_s - 1

    @property
    def ttft_error(self) -> float:
        return abs(self.predicted_ttft_s / self.ttft_s - 1)


def grid(shares: Sequence[float], prompts: Sequence[int]) -> Iterator[Case]:
    """All cases, with an idle peer and one that writes another answer."""
    axes = itertools.product(shares, LINKS, prompts, OUTPUTS, (0, 1))
    for share, (mbit_s, rtt_s), prompt, output, num_beside in axes:
        yield Case(share, mbit_s, rtt_s, prompt, output, num_beside)


def judge(world: World, case: Case) -> list[Verdict]:
    """What was chosen under each policy, against the best. Who is later than the best so far is stopped."""
    situation = world.situation(case)
    decisions = {name: decide(case.ask, replace(situation, rules=rules)) for name, rules in RULES.items()}
    chosen = {policy: name_of(decision.chosen) for policy, decision in decisions.items()}
    allowed = {policy: [c for c in d.candidates if c.rejected is None] for policy, d in decisions.items()}
    names = {policy: {name_of(c) for c in free} for policy, free in allowed.items()}
    best = dict.fromkeys(RULES, math.inf)
    ran: dict[str, Ran] = {}
    every = {name_of(c): c for free in allowed.values() for c in free}
    for name in sorted(every, key=lambda name: (name not in chosen.values(), every[name].total_s)):
        policies = [policy for policy in RULES if name in names[policy]]
        limit_s = max(best[policy] for policy in policies)
        is_chosen = name in chosen.values()
        ran[name] = world.run(case, every[name], None if is_chosen or limit_s == math.inf else limit_s)
        for policy in policies:
            best[policy] = min(best[policy], ran[name].total_s or math.inf)
    return [_verdict(policy, case, decision, ran, names[policy]) for policy, decision in decisions.items()]


def _verdict(policy: str, case: Case, decision: Decision, ran: dict[str, Ran], allowed: set[str]) -> Verdict:
    totals = {name: total for name in allowed if (total := ran[name].total_s) is not None}
    chosen, predicted = name_of(decision.chosen), decision.chosen
    best = min(totals, key=lambda name: totals[name])
    ttft_s = ran[chosen].ttft_s
    assert ttft_s is not None
    return Verdict(
        policy, case, chosen, best, predicted.ttft_s, ttft_s, predicted.total_s, totals[chosen], totals[best]
    )


def name_of(candidate: Candidate) -> str:
    return str(candidate.plan) if candidate.k is None else f"{candidate.plan} k={candidate.k}"


_world: World | None = None


def _begin(measured: Measured) -> None:
    global _world  # noqa: PLW0603  (one a process: pieces are sent once)
    _world = World(measured)


def _judge(case: Case) -> list[Verdict]:
    assert _world is not None
    return judge(_world, case)


def replayed(measured: Measured, cases: Sequence[Case]) -> list[Verdict]:
    """Of all cases, on all cores."""
    context = multiprocessing.get_context("spawn")
    found: list[Verdict] = []
    with ProcessPoolExecutor(len(harness.cores()), context, _begin, (measured,)) as pool:
        for number, verdicts in enumerate(pool.map(_judge, cases), 1):
            found += verdicts
            if number % 20 == 0:
                harness.progress(f"{number} of {len(cases)} cases")
    return found


def figures_of(verdicts: Sequence[Verdict]) -> harness.Json:
    """Of the grid under the policy that leaves all plans open, and beside it under the one that keeps text here."""
    figures: harness.Json = {}
    for policy, prefix in (("text may leave", ""), ("text stays", "private_")):
        own = [v for v in verdicts if v.policy == policy]
        regrets = [v.regret for v in own]
        figures |= {
            f"{prefix}cases": len(own),
            f"{prefix}regret_median": round(statistics.median(regrets), 4),
            f"{prefix}regret_p95": round(harness.percentile(regrets, 0.95), 4),
            f"{prefix}regret_max": round(max(regrets), 4),
            f"{prefix}ttft_error_median": round(statistics.median(v.ttft_error for v in own), 4),
            f"{prefix}ttft_error_p95": round(harness.percentile([v.ttft_error for v in own], 0.95), 4),
        }
    return figures


def conditions_of(verdicts: Sequence[Verdict]) -> harness.Json:
    """Where it went wrong."""
    worst = sorted(verdicts, key=lambda v: -v.regret)[:8]
    plans = {(v.policy, v.chosen.split(" ")[0]) for v in verdicts}
    return {
        "chosen": dict(Counter(f"{v.policy}: {v.chosen.split(' ')[0]}" for v in verdicts)),
        "best": dict(Counter(f"{v.policy}: {v.best.split(' ')[0]}" for v in verdicts)),
        "ttft_error_median_by_chosen": {
            f"{policy}: {plan}": round(
                statistics.median(
                    v.ttft_error for v in verdicts if (v.policy, v.chosen.split(" ")[0]) == (policy, plan)
                ),
                4,
            )
            for policy, plan in sorted(plans)
        },
        "regret_p95_by_axis": {
            axis: {
                str(value): round(
                    harness.percentile([v.regret for v in verdicts if getattr(v.case, axis) == value], 0.95), 4
                )
                for value in sorted({getattr(v.case, axis) for v in verdicts})
            }
            for axis in ("share", "mbit_s", "rtt_s", "prompt_tokens", "output_tokens", "num_beside")
        },
        "worst": [
            {**asdict(v.case), "policy": v.policy, "chosen": v.chosen, "best": v.best, "regret": round(v.regret, 3)}
            for v in worst
        ],
    }


def pieces(shares: Sequence[float], most_tokens: int) -> Measured:
    """Measured on a quiet machine; a run that was broken off finds those that it had in the state folder."""
    settings = settings_of_bench()
    of_what = f"{harness.cpu_model()} {most_tokens}".encode()
    kept = KeptPieces(settings.paths.state / f"bench-regret-pieces-{hashlib.sha256(of_what).hexdigest()[:12]}.pickle")
    if kept.file.is_file() and time.time() - kept.file.stat().st_mtime < KEEP_S:
        kept.known = pickle.loads(kept.file.read_bytes())  # noqa: S301  (written by such a run)
        harness.progress(f"pieces of an earlier run: {', '.join(f'{end} {of:g}' for end, of in kept.known)}")
    with harness.broker() as (_, url):
        return asyncio.run(measure(settings, shares, most_tokens, url, kept))


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    shares, prompts = (QUICK_SHARES, QUICK_PROMPTS) if options.quick else (SHARES, PROMPTS)
    measured = pieces(shares, max(prompts))
    pieces_s = time.monotonic() - started
    every = list(grid(shares, prompts))
    cases = random.Random(SEED).sample(every, min(len(every), QUICK_CASES if options.quick else NUM_CASES))
    verdicts = replayed(measured, cases)
    replay_s = time.monotonic() - started - pieces_s
    real = regret_real.compare(World(measured), is_quick=options.quick)
    conditions = conditions_of(verdicts) | {
        "grid": f"{len(every)} cases, of which {len(cases)} by seed {SEED}",
        "shares_of_a_core": list(shares),
        "held_by": can_hold(),
        "links_mbit_s_rtt_s": [list(link) for link in LINKS],
        "prompt_tokens": list(prompts),
        "output_tokens": list(OUTPUTS),
        "peer": "alone, and beside an answer to another device",
        "hop_s": round(measured.hop_s, 5),
        "replay_against_real": real,
        "pieces_s": round(pieces_s, 1),
        "replay_s": round(replay_s, 1),
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("regret", figures_of(verdicts), conditions, as_json=options.json)


if __name__ == "__main__":
    main()

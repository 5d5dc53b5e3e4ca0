"""Is plan `prefill` ever slower than `local`, whatever the link does? Time to the first token, in pairs, link by link.

A daemon and its engine, held to part of one core, a peer on the other, a real broker, and between daemon and broker a
link of each rate and round trip (`tools/chaos_proxy.py`). Every prompt is new from its first word on, so that neither
end has any of it in a cache. Between runs the link is wide, so that nothing old is on its way.
"""

import contextlib
import itertools
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import bad_link
import harness
import psutil
import quota

from tools.chaos_link import PERFECT, Shape

RATES_MBIT_S = (0.2, 1.0, 5.0, 20.0, 100.0)
RTTS_S = (0.005, 0.05, 0.2)
DEAD = Shape(0.0, 0.0)
QUICK_CELLS = (DEAD, Shape(1.0, 1.0, 0.05), Shape(20.0, 20.0, 0.05))
PAIRS, QUICK_PAIRS = 5, 2
BAR = 1.05
EDGE_SHARE, PERIOD_S = 0.5, 0.02
DRAIN_S = 0.5
MAX_TOKENS = 8
SEED = 41
WORDS = (
    "river", "stone", "lamp", "garden", "winter", "copper", "bridge", "letter", "orchard", "signal", "harbour",
    "thread", "meadow", "engine", "candle", "valley",
)  # fmt: skip
SENTENCES = 50


def cells() -> list[Shape]:
    """All links; on a dead one no round trip ends."""
    return [DEAD, *(Shape(rate, rate, rtt) for rate, rtt in itertools.product(RATES_MBIT_S, RTTS_S))]


def name_of(shape: Shape) -> str:
    return "dead" if shape.down_mbit_s == 0 else f"{shape.down_mbit_s:g} Mbit/s, {1000 * shape.rtt_s:g} ms"


def prompts() -> Iterator[str]:
    """About 600 tokens each, of the same length but for some tokens, no two with the same beginning."""
    draw = random.Random(SEED)
    for number in itertools.count(1):
        notes = (
            f"The {draw.choice(WORDS)} near the {draw.choice(WORDS)} was mended by hand." for _ in range(SENTENCES)
        )
        yield f"{number}. {' '.join(notes)} Write one sentence about it."


@dataclass(slots=True)
class Bench:
    client: harness.Client
    link: bad_link.BadLink
    questions: Iterator[str] = field(default_factory=prompts)
    prompt_tokens: list[int] = field(default_factory=list)
    kv_tokens: dict[str, list[int]] = field(default_factory=dict)
    """Prompt tokens whose cache came from the peer, by link."""

    def ratio(self, shape: Shape, *, is_local_first: bool) -> tuple[float, float]:
        """Seconds to the first token of `local`, and those of `prefill` to it."""
        took = {plan: self._first_token_s(plan, shape) for plan in _order(is_local_first)}
        return took["local"], took["prefill"] / took["local"]

    def _first_token_s(self, plan: str, shape: Shape) -> float:
        self.link.set(PERFECT)
        time.sleep(DRAIN_S)
        if plan == "prefill":
            harness.wait_for_peer(self.client)  # a dead link has opened its breaker
        self.link.set(shape)
        body: harness.Json = {
            "messages": [{"role": "user", "content": next(self.questions)}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
            "edgeagent": {"plan": plan, "memory": False, "reduce": "L0"},
        }
        answer = harness.stream(f"http://127.0.0.1:{self.client.port}", body)
        self.prompt_tokens.append(answer.usage["prompt_tokens"])
        if answer.report["plan"] != plan:
            raise RuntimeError(f"plan {answer.report['plan']} was run instead of {plan}")
        if plan == "prefill":
            self.kv_tokens.setdefault(name_of(shape), []).append(answer.report["kv_tokens"])
        ttft_s: float = answer.ttft_s
        return ttft_s


def _order(is_local_first: bool) -> Sequence[str]:
    return ("local", "prefill") if is_local_first else ("prefill", "local")


def measure(bench: Bench, shapes: Sequence[Shape], num_pairs: int) -> dict[str, harness.Json]:
    """By link: the median of the ratios, all of them, and how long `local` took."""
    draw = random.Random(SEED)
    found: dict[str, harness.Json] = {}
    for shape in shapes:
        first_local = [i % 2 == 0 for i in range(num_pairs)]
        draw.shuffle(first_local)
        pairs = [bench.ratio(shape, is_local_first=is_first) for is_first in first_local]
        ratios = [round(ratio, 4) for _, ratio in pairs]
        found[name_of(shape)] = {
            "median": statistics.median(ratios),
            "ratios": ratios,
            "local_ttft_s": round(statistics.median(local_s for local_s, _ in pairs), 3),
            "kv_tokens": bench.kv_tokens[name_of(shape)],
        }
        harness.progress(f"{name_of(shape)}: {found[name_of(shape)]}")
    return found


@contextlib.contextmanager
def held(daemon: harness.Program) -> Iterator[str]:
    """The daemon and its engine slowed down together; what was done."""
    if not quota.is_available():
        yield "not held: no control group may be made here"
        return
    assert daemon.process is not None
    pids = [daemon.process.pid, *(worker.pid for worker in daemon.workers())]
    with quota.limited(pids, EDGE_SHARE, PERIOD_S):
        yield f"daemon and engine of the edge have {EDGE_SHARE} of a core in periods of {PERIOD_S:g} s"


def pin(program: harness.Program, core: int) -> None:
    """All its processes to one core. Not at their start: the profile is one of the whole machine."""
    assert program.process is not None
    parent = psutil.Process(program.process.pid)
    for process in (parent, *parent.children(recursive=True)):
        for thread in process.threads():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {core})


def main() -> None:
    options = harness.options(__doc__)
    shapes, num_pairs = (QUICK_CELLS, QUICK_PAIRS) if options.quick else (cells(), PAIRS)
    started = time.monotonic()
    port, cores = harness.free_port(), harness.cores()
    env = harness.state_env() | harness.UNGOVERNED | harness.COLD
    env |= {"EDGEAGENT__ENGINE__THREADS": "1", "EDGEAGENT__ENGINE__IDLE_UNLOAD_S": "0"}
    with harness.broker() as (_, url), bad_link.bad_link(int(url.rpartition(":")[2])) as link:
        there = env | {"EDGEAGENT__MQTT__URL": url, "EDGEAGENT__MQTT__DEVICE_ID": "bench-peer"}
        here = env | {"EDGEAGENT__MQTT__URL": link.url, "EDGEAGENT__MQTT__DEVICE_ID": "bench-edge"}
        here["EDGEAGENT__HTTP__PORT"] = str(port)
        peer = harness.edgeagent(["peer"], there, "peer ready")
        daemon = harness.edgeagent(["serve"], here, "daemon ready")
        with harness.running(peer), harness.running(daemon):
            bench = Bench(harness.Client(port), link)
            harness.wait_for_peer(bench.client)
            bench.client.ask("Say yes.", "local", max_tokens=2)  # both ends have loaded the model now
            pin(peer, cores[-1])
            pin(daemon, cores[0])
            with held(daemon) as how:
                found = measure(bench, shapes, num_pairs)
    worst = max(found, key=lambda name: found[name]["median"])
    best = min(found, key=lambda name: found[name]["median"])
    figures = {
        "cells": len(found),
        "worst_ratio_to_local": found[worst]["median"],
        "cells_over_1_05": sum(cell["median"] > BAR for cell in found.values()),
        "best_ratio_to_local": found[best]["median"],
    }
    conditions = {
        "worst_cell": worst,
        "best_cell": best,
        "pairs_per_cell": num_pairs,
        "prompt_tokens": harness.spread(bench.prompt_tokens),
        "seed": SEED,
        "edge": how,
        "placement": f"edge on core {cores[0]}, peer on core {cores[-1]}, one thread each",
        "by_cell": found,
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("link", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()

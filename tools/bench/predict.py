"""Is what is predicted before a download what is measured after it? Prefill, decode and memory of several variants.

The machine's kernels are measured on synthetic rigs; the speed of every variant is predicted from its card alone (shape
and file type), with one thread and with all, at four prompt lengths, and, where this process may make control groups,
also with a CPU quota of half the machine. Then each is measured in a worker. No measured figure of a variant enters its
prediction.
"""

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import harness
import predict_memory
import quota

from edgeagent import parts
from edgeagent.core.cards import KvType
from edgeagent.core.hardware import Kernels
from edgeagent.execution.supervisor import Worker
from edgeagent.model.quantize import quantize
from edgeagent.model.recipe import load_of
from edgeagent.model.store import ModelStore, StoredVariant
from edgeagent.resource.calibration import thread_candidates
from edgeagent.resource.capability import EngineSettings, spawn_engine
from edgeagent.resource.kernel_pass import Pass, complete
from edgeagent.resource.kernels import MAX_FILE_BYTES, RigBench
from edgeagent.resource.probes.cpu import read_cache_bytes
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.speed import Quota, decode_s, prefill_s
from edgeagent.settings import load_settings

SMOLLM, GEMMA = "smollm2-135m-instruct", "gemma-3-270m"
VARIANTS = (
    (SMOLLM, "Q4_1"),
    (SMOLLM, "Q8_0"),
    (SMOLLM, "Q4_0"),
    (SMOLLM, "Q3_K_M"),
    (SMOLLM, "Q2_K"),
    (GEMMA, "Q4_K_M"),
)
QUICK_VARIANTS = (VARIANTS[0], VARIANTS[2], VARIANTS[5])
LENGTHS, QUICK_LENGTHS = (100, 256, 512, 960), (100, 512)
ROUNDS, QUICK_ROUNDS = 2, 1
DECODE_TOKENS = 40
CHUNK, CONTEXT = 64, 2048
KV_TYPE: KvType = "q8_0"
PERIOD_S = 0.1
BUDGET_S = 600.0
"""For the kernels: the bench measures all of them, whatever it takes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One cell of the grid, in seconds."""

    variant: str
    threads: int
    length: int
    has_quota: bool
    prefill_s: float
    decode_s: float
    predicted_prefill_s: float
    predicted_decode_s: float

    @property
    def prefill_error(self) -> float:
        return abs(self.predicted_prefill_s / self.prefill_s - 1)

    @property
    def decode_error(self) -> float:
        return abs(self.predicted_decode_s / self.decode_s - 1)


async def variants(store: ModelStore, names: Sequence[tuple[str, str]]) -> list[StoredVariant]:
    """On disk, made or fetched when they are not."""
    found: list[StoredVariant] = []
    for model, name in names:
        _, variant = store.registry.variant(model, name)
        if variant.source.kind == "quantized":
            found.append(await quantize(store, model, name, spawn_engine, 2))
        else:
            found.append(await store.ensure(model, name))
    return found


async def measure_kernels(threads: Sequence[int]) -> Kernels:
    settings = EngineSettings(harness.repacks_weights(), flash_attention=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = RigBench(
            spawn_engine, settings, KV_TYPE, CHUNK, threads, Path(folder), read_cache_bytes(Sysroot()), MAX_FILE_BYTES
        )
        work = Pass(bench, time.monotonic, "", BUDGET_S, lambda what, _share: harness.progress(f"measuring {what}"))
        return await complete(None, work)


@dataclass(slots=True)
class Grid:
    """Runs every cell and compares it with its prediction."""

    kernels: Kernels
    lengths: Sequence[int]
    rounds: int
    half: Quota | None
    runs: list[Run] = field(default_factory=list)

    async def run(self, stored: StoredVariant, threads: int, quota_: Quota | None) -> None:
        worker = await Worker.spawn("llama")
        try:
            with _limited(worker.pid, quota_):
                await worker.call(
                    "load",
                    path=str(stored.path),
                    context_tokens=CONTEXT,
                    kv_type=KV_TYPE,
                    threads=threads,
                    chunk_tokens=CHUNK,
                    extra_buffers=harness.repacks_weights(),
                    flash_attention=True,
                )
                await worker.call("time", spans=[CHUNK, 1], threads=threads)
                for length in self.lengths:
                    self.runs.append(await self._cell(worker, stored, threads, length, quota_))
        finally:
            await worker.close()

    async def _cell(
        self, worker: Worker, stored: StoredVariant, threads: int, length: int, quota_: Quota | None
    ) -> Run:
        chunks = [CHUNK] * (length // CHUNK) + ([length % CHUNK] if length % CHUNK else [])
        rounds = []
        for _ in range(self.rounds):
            await asyncio.sleep(2 * PERIOD_S)  # a quota is fresh at the start, as it is for a request
            reply, _ = await worker.call("time", spans=[*chunks, *[1] * DECODE_TOKENS], threads=threads)
            seconds = reply["seconds"]
            rounds.append((sum(seconds[: len(chunks)]), statistics.fmean(seconds[len(chunks) :])))
        load = load_of(stored.card.shape(stored.variant), stored.variant.file_type)
        middle = length + DECODE_TOKENS // 2
        return Run(
            variant=f"{stored.card.id}/{stored.variant.name}",
            threads=threads,
            length=length,
            has_quota=quota_ is not None,
            prefill_s=min(r[0] for r in rounds),
            decode_s=min(r[1] for r in rounds),
            predicted_prefill_s=prefill_s(load, self.kernels, threads, length, quota=quota_),
            predicted_decode_s=decode_s(load, self.kernels, threads, middle, quota=quota_),
        )


@contextlib.contextmanager
def _limited(pid: int, limit: Quota | None) -> Iterator[None]:
    if limit is None:
        yield
        return
    with quota.limited([pid], limit.cores, limit.period_s):
        yield


def errors(runs: Sequence[Run]) -> harness.Json:
    """Spread of both errors over these runs."""
    return {
        "prefill": _spread([r.prefill_error for r in runs]),
        "decode": _spread([r.decode_error for r in runs]),
    }


def _spread(values: Sequence[float]) -> harness.Json:
    return {
        "n": len(values),
        "median": round(statistics.median(values), 4),
        "p90": round(harness.percentile(values, 0.9), 4),
        "max": round(max(values), 4),
    }


def main() -> None:
    options = harness.options(__doc__)
    started = time.monotonic()
    harness.state_env()
    store = parts.model_store(load_settings())
    stored = asyncio.run(variants(store, QUICK_VARIANTS if options.quick else VARIANTS))
    threads = sorted(thread_candidates(len(harness.cores())))
    half = Quota(len(harness.cores()) / 2, PERIOD_S) if quota.is_available() else None
    grid = Grid(
        asyncio.run(measure_kernels(threads)),
        QUICK_LENGTHS if options.quick else LENGTHS,
        QUICK_ROUNDS if options.quick else ROUNDS,
        half,
    )
    for each, count, limit in itertools.product(stored, threads, [None, half] if half else [None]):
        asyncio.run(grid.run(each, count, limit))
        harness.progress(f"{each.card.id}/{each.variant.name}, {count} threads, quota {limit}: {grid.runs[-1]}")
    memory = predict_memory.measure(predict_memory.cases(stored, predict_memory.repacked_here()))
    figures, conditions = report(grid, memory)
    conditions["took_s"] = round(time.monotonic() - started, 1)
    harness.publish("predict", figures, conditions, as_json=options.json)


def report(grid: Grid, memory: Sequence[predict_memory.Measured]) -> tuple[harness.Json, harness.Json]:
    """Figures and conditions."""
    runs = grid.runs
    memory_errors = [predict_memory.error_of(m) for m in memory]
    whole = errors(runs)
    figures = {
        "prefill_error_median": whole["prefill"]["median"],
        "decode_error_median": whole["decode"]["median"],
        "memory_error_median": round(statistics.median(memory_errors), 4),
        "prefill_error_p90": whole["prefill"]["p90"],
        "decode_error_p90": whole["decode"]["p90"],
        "memory_error_max": round(max(memory_errors), 4),
        "cells": len(runs),
    }
    names = sorted({r.variant for r in runs})
    conditions = {
        "threads": sorted({r.threads for r in runs}),
        "prompt_tokens": list(grid.lengths),
        "decode_tokens": DECODE_TOKENS,
        "rounds": grid.rounds,
        "quota": f"half of the machine in periods of {PERIOD_S:g} s" if grid.half else "no control group may be made",
        "errors_without_quota": errors([r for r in runs if not r.has_quota]),
        "errors_with_quota": errors([r for r in runs if r.has_quota]) if grid.half else None,
        "errors_by_variant": {name: errors([r for r in runs if r.variant == name]) for name in names},
        "memory_cases": len(memory),
        "predicted_from": "the card's shape and file type, and kernels measured on rigs in this run",
        "steady_fraction": grid.kernels.steady_fraction,
    }
    return figures, conditions


if __name__ == "__main__":
    main()

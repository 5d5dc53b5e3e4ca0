"""Measures this machine's arithmetic on rigs (small synthetic decoders), so that any model's speed can be predicted.

Rigs of one type and three widths separate what a batch costs by its weights, by its width and by its layers; one with
a filled cache gives attention; then one rig for each weight type gives that type's two rates. See `resource.speed`.
"""

import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeagent.core.cards import KvType
from edgeagent.core.hardware import KernelRates, Overheads
from edgeagent.execution.supervisor import Worker
from edgeagent.resource.capability import EngineSettings, ProbeModel, Spawn, load
from edgeagent.resource.speed import Load, attention_s

Clock = Callable[[], float]
"""Monotonic seconds."""

KINDS = ("Q8_0", "Q4_0", "Q4_K", "Q6_K", "Q4_1", "Q5_K", "Q5_0", "Q3_K", "Q2_K", "IQ4_NL", "F16", "Q5_1", "IQ4_XS")
"""Weight types by worth: what today's files are made of comes first."""
REFERENCE = "Q8_0"
"""The type of the rigs that separate overheads: every width that is a multiple of 32 may have it."""

CONTEXT_TOKENS = 2048
PAST_TOKENS = 960
BATCHES = (2, 4, 8, 16, 32)
CACHE_MULTIPLE = 2
"""A rig's weights are so many times the last-level cache: what is applied one token at a time comes from memory."""
MAX_FILE_BYTES = 256 * 2**20
ROUND_CHUNKS, ROUND_TOKENS, ROUNDS = 2, 12, 2
STEADY_TOKENS = 8
BYTES_PER_ELEMENT = {"F16": 2.0, "Q8_0": 34 / 32, "Q6_K": 210 / 256, "Q3_K": 110 / 256, "Q2_K": 84 / 256}
DEFAULT_BYTES_PER_ELEMENT = 0.6


@dataclass(frozen=True, slots=True)
class Rig:
    """A decoder of equal layers whose matrices are all of one type."""

    kind: str
    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int

    @property
    def elements(self) -> int:
        """Weights of all layers."""
        kv_width = self.width // self.heads * self.kv_heads
        return self.layers * (2 * self.width**2 + 2 * self.width * kv_width + 3 * self.width * self.ffn)

    @property
    def load(self) -> Load:
        return Load(self.layers, self.width, {self.kind: self.elements}, {}, self.width)


TINY = Rig(REFERENCE, layers=24, width=64, ffn=64, heads=1, kv_heads=1)
NARROW = Rig(REFERENCE, layers=12, width=512, ffn=1536, heads=8, kv_heads=2)


def wide_rig(kind: str, cache_bytes: int, max_bytes: int = MAX_FILE_BYTES) -> Rig:
    """A rig whose weights do not fit the cache, within `max_bytes`."""
    one = Rig(kind, layers=1, width=1024, ffn=2816, heads=16, kv_heads=4)
    layer_bytes = int(one.elements * BYTES_PER_ELEMENT.get(kind, DEFAULT_BYTES_PER_ELEMENT))
    wanted = -(-CACHE_MULTIPLE * cache_bytes // layer_bytes)
    return Rig(kind, max(2, min(wanted, max_bytes // layer_bytes)), one.width, one.ffn, one.heads, one.kv_heads)


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Median seconds of one whole chunk, of one token, and of batches between (by size)."""

    chunk_s: float
    token_s: float
    batches_s: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class RigBench:
    """What rigs are timed with. `folder` has room for `max_bytes`; `cache_bytes`: size of the last-level cache."""

    spawn: Spawn
    settings: EngineSettings
    kv_type: KvType
    chunk_tokens: int
    threads: Sequence[int]
    folder: Path
    cache_bytes: int
    max_bytes: int = MAX_FILE_BYTES

    def wide(self, kind: str) -> Rig:
        return wide_rig(kind, self.cache_bytes, self.max_bytes)


async def measure_overheads(bench: RigBench) -> tuple[Overheads, ...]:
    """For each number of threads. Raises EngineError, EngineLostError."""
    wide_shape = bench.wide(REFERENCE)
    tiny, wide = await _time(bench, TINY), await _time(bench, wide_shape)
    narrow, full = await _time(bench, NARROW, batches=BATCHES), await _time(bench, NARROW, past=PAST_TOKENS)
    return tuple(
        overheads_of(
            threads, bench.chunk_tokens, tiny[threads], narrow[threads], full[threads], wide[threads], wide_shape
        )
        for threads in bench.threads
    )


def overheads_of(
    threads: int,
    chunk: int,
    tiny: BatchTimes,
    narrow: BatchTimes,
    full: BatchTimes,
    wide: BatchTimes,
    wide_shape: Rig,
) -> Overheads:
    """Overheads from the times of the tiny rig, the narrow one (empty and with PAST_TOKENS cached) and a wide one."""
    positions = NARROW.layers * NARROW.width * PAST_TOKENS
    known = Overheads(
        threads=threads,
        layer_s=tiny.token_s / TINY.layers,
        vector_elem_s=1.0,
        attention_token_elem_s=positions / max(full.token_s - narrow.token_s, 1e-6),
        attention_chunk_elem_s=chunk * positions / max(full.chunk_s - narrow.chunk_s, 1e-6),
        batch_shares={
            n: min(1.0, max(0.0, (s - narrow.token_s) / (narrow.chunk_s - narrow.token_s)))
            for n, s in narrow.batches_s.items()
        },
    )
    return known.model_copy(update={"vector_elem_s": _vector_elem_s(narrow, wide, wide_shape, known, chunk)})


def _vector_elem_s(narrow: BatchTimes, wide: BatchTimes, wide_shape: Rig, known: Overheads, chunk: int) -> float:
    """Tokens x width a second, from two rigs: seconds a layer = weights x chunk x a + width x chunk x b + the rest."""
    (a1, b1, t1), (a2, b2, t2) = (
        (
            rig.elements / rig.layers * chunk,
            rig.width * chunk,
            (times.chunk_s - attention_s(rig.load, known, chunk, 0)) / rig.layers - known.layer_s,
        )
        for times, rig in ((narrow, NARROW), (wide, wide_shape))
    )
    return 1 / max((t1 * a2 - t2 * a1) / (b1 * a2 - b2 * a1), 1e-12)


async def measure_kind(bench: RigBench, kind: str, overheads: Sequence[Overheads]) -> tuple[KernelRates, ...]:
    """The type's rates for each number of threads. Raises EngineError, EngineLostError."""
    rig = bench.wide(kind)
    times = await _time(bench, rig)
    return tuple(kind_rates(rig, times[o.threads], o, bench.chunk_tokens) for o in overheads)


def kind_rates(rig: Rig, times: BatchTimes, overheads: Overheads, chunk: int) -> KernelRates:
    """The type's own rates: what is left of the rig's times without overheads."""
    layers_s = rig.layers * overheads.layer_s
    beside_s = layers_s + rig.layers * chunk * rig.width / overheads.vector_elem_s
    beside_s += attention_s(rig.load, overheads, chunk, 0)
    return KernelRates(
        type=rig.kind,
        threads=overheads.threads,
        token_elem_s=rig.elements / max(times.token_s - layers_s, times.token_s / 4),
        chunk_elem_s=rig.elements * chunk / max(times.chunk_s - beside_s, times.chunk_s / 4),
    )


async def measure_steady(bench: RigBench, seconds: float, clock: Clock) -> float:
    """Rate of prompt chunks at the end of `seconds` of full load over that at its start: below 1 where heat or power
    hold the machine back. Raises EngineError, EngineLostError."""
    threads, chunk = max(bench.threads), bench.chunk_tokens
    async with _loaded(bench, bench.wide(REFERENCE)) as worker:
        spans = [chunk] * STEADY_TOKENS
        await worker.call("time", spans=spans, threads=threads)
        rounds: list[float] = []
        end = clock() + seconds
        while clock() < end or len(rounds) < 2:
            reply, _ = await worker.call("time", spans=spans, threads=threads)
            rounds.append(statistics.median(reply["seconds"]))
    part = max(1, len(rounds) // 4)
    return min(1.0, statistics.median(rounds[:part]) / statistics.median(rounds[-part:]))  # above 1 is noise


async def _time(bench: RigBench, rig: Rig, *, past: int = 0, batches: Sequence[int] = ()) -> dict[int, BatchTimes]:
    """Times by number of threads."""
    async with _loaded(bench, rig) as worker:
        return {n: await _rounds(worker, bench.chunk_tokens, n, past, batches) for n in bench.threads}


@contextlib.asynccontextmanager
async def _loaded(bench: RigBench, rig: Rig) -> AsyncIterator[Worker]:
    """A worker with this rig; its file is gone afterwards."""
    worker = await bench.spawn()
    path = bench.folder / f"rig-{rig.kind}-{rig.width}.gguf"
    try:
        await worker.call("rig", target=str(path), context_tokens=CONTEXT_TOKENS, **asdict(rig))
        model = ProbeModel(path.stem, path, bench.kv_type, bench.chunk_tokens)
        await load(worker, model, bench.settings, threads=max(bench.threads), context_tokens=CONTEXT_TOKENS)
        yield worker
    finally:
        await worker.close()
        path.unlink(missing_ok=True)


async def _rounds(worker: Worker, chunk: int, threads: int, past: int, batches: Sequence[int]) -> BatchTimes:
    """Whatever else runs here can only slow a round down: the fastest counts."""
    spans = [chunk] * ROUND_CHUNKS + [1] * ROUND_TOKENS + list(batches)
    await worker.call("time", spans=[chunk, 1, 1], threads=threads)  # pages and caches warm up
    rounds = [
        (await worker.call("time", spans=spans, past=past, threads=threads))[0]["seconds"]
        for _ in range(1 if past else ROUNDS)
    ]
    single = ROUND_CHUNKS + ROUND_TOKENS
    return BatchTimes(
        chunk_s=min(statistics.median(r[:ROUND_CHUNKS]) for r in rounds),
        token_s=min(statistics.median(r[ROUND_CHUNKS:single]) for r in rounds),
        batches_s={n: min(r[single + i] for r in rounds) for i, n in enumerate(batches)},
    )

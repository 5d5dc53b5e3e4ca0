"""Speeds, measured in child processes: memory bandwidth, and prefill and decode rates of one variant."""

import asyncio
import json
import statistics
import sys
from collections.abc import Callable

from edgeagent.core.hardware import Rates
from edgeagent.execution.supervisor import Worker
from edgeagent.resource.capability import EngineSettings, ProbeModel, Spawn, load, spawn_engine

BANDWIDTH_S = 0.3
BANDWIDTH_TIMEOUT_S = 60.0
CACHE_MULTIPLE = 8
"""A buffer so many times the last-level cache is read from memory, not from the cache."""
MIN_BUFFER_BYTES = 64 * 2**20

ROUND_S = 0.3
ROUNDS = 3
BUDGET_S = 60.0
"""Thread counts still untried when so much time has passed stay untried (large models on slow boards)."""
MAX_PROMPT_TOKENS = 256
MIN_DECODE_TOKENS, MAX_DECODE_TOKENS = 8, 64
REFERENCE_PROMPT_TOKENS, REFERENCE_ANSWER_TOKENS = 1000, 100
"""The request for which the best thread count is chosen."""

Clock = Callable[[], float]
"""Monotonic seconds."""


def thread_candidates(cores: int) -> tuple[int, ...]:
    """All cores, then the powers of two below, falling."""
    powers = [1 << n for n in range(cores.bit_length()) if 1 << n < cores]
    return (cores, *reversed(powers))


def buffer_bytes(cache_bytes: int, available_bytes: int) -> int:
    """Size of the buffer for the bandwidth measurement; at most a quarter of the available memory."""
    return min(max(MIN_BUFFER_BYTES, CACHE_MULTIPLE * cache_bytes), available_bytes // 4)


async def measure_bandwidth(num_bytes: int, cores: int) -> float | None:
    """Bytes read a second, the best of several thread counts; None when the child fails."""
    arguments = [str(num_bytes), str(BANDWIDTH_S), *map(str, thread_candidates(cores))]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "edgeagent.execution.bandwidth",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), BANDWIDTH_TIMEOUT_S)
    except TimeoutError:
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return max(map(float, json.loads(output).values())) if child.returncode == 0 else None


async def measure_rates(
    model: ProbeModel,
    settings: EngineSettings,
    *,
    cores: int,
    bandwidth_bytes_s: float | None,
    clock: Clock,
    spawn: Spawn = spawn_engine,
) -> Rates:
    """Rates at the thread count that answers the reference request soonest. Raises EngineError, ModelFileError.

    Speed has one peak over threads: from all cores down, the first count that is slower ends the search.
    """
    began = clock()
    best: Rates | None = None
    for threads in thread_candidates(cores):
        rates = await _rates(model, settings, threads, bandwidth_bytes_s, spawn)
        if best and reference_s(rates) > reference_s(best):
            break
        best = rates
        if clock() - began > BUDGET_S:
            break
    assert best is not None
    return best


def reference_s(rates: Rates) -> float:
    """Seconds the reference request would take."""
    return REFERENCE_PROMPT_TOKENS / rates.prefill_tok_s + REFERENCE_ANSWER_TOKENS / rates.decode_tok_s


async def _rates(
    model: ProbeModel, settings: EngineSettings, threads: int, bandwidth_bytes_s: float | None, spawn: Spawn
) -> Rates:
    worker = await spawn()
    try:
        await load(worker, model, settings, threads=threads)
        chunk = min(model.chunk_tokens, MAX_PROMPT_TOKENS)
        prefill, decode = await _bench(worker, chunk, MIN_DECODE_TOKENS)  # warms caches, and sizes the rounds
        sizes = round_sizes(prefill, decode, chunk)
        rounds = [await _bench(worker, *sizes) for _ in range(ROUNDS)]
    finally:
        await worker.close()
    decode_tok_s = statistics.median(decode for _, decode in rounds)
    return Rates(
        prefill_tok_s=statistics.median(prefill for prefill, _ in rounds),
        decode_tok_s=decode_tok_s,
        roofline_fraction=_roofline(model, decode_tok_s, bandwidth_bytes_s),
        threads=threads,
        kv_type=model.kv_type,
    )


async def _bench(worker: Worker, prompt_tokens: int, decode_tokens: int) -> tuple[float, float]:
    reply, _ = await worker.call("bench", prompt_tokens=prompt_tokens, decode_tokens=decode_tokens)
    return float(reply["prefill_tok_s"]), float(reply["decode_tok_s"])


def round_sizes(prefill_tok_s: float, decode_tok_s: float, chunk_tokens: int) -> tuple[int, int]:
    """Prompt tokens, in whole chunks, and answer tokens of a round that takes about twice ROUND_S."""
    most_chunks = MAX_PROMPT_TOKENS // chunk_tokens
    num_chunks = max(1, min(most_chunks, round(prefill_tok_s * ROUND_S / chunk_tokens)))
    num_decode = max(MIN_DECODE_TOKENS, min(MAX_DECODE_TOKENS, round(decode_tok_s * ROUND_S)))
    return num_chunks * chunk_tokens, num_decode


def _roofline(model: ProbeModel, decode_tok_s: float, bandwidth_bytes_s: float | None) -> float | None:
    """Each token reads every weight once: the file's bytes a token against what memory delivers."""
    if not bandwidth_bytes_s:
        return None
    return model.path.stat().st_size * decode_tok_s / bandwidth_bytes_s

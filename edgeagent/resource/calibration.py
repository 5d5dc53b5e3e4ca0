"""Speeds, measured in child processes: memory bandwidth, and prefill and decode rates of one variant."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from edgeagent.core.hardware import Rates
from edgeagent.execution.supervisor import Worker
from edgeagent.resource.capability import EngineSettings, ProbeModel, Spawn, load, spawn_engine
from edgeagent.resource.probes.cpu import read_cpu_times
from edgeagent.resource.probes.sysroot import Sysroot

BANDWIDTH_S = 0.3
BANDWIDTH_TIMEOUT_S = 60.0
CACHE_MULTIPLE = 8
"""A buffer so many times the last-level cache is read from memory, not from the cache."""
MIN_BUFFER_BYTES = 64 * 2**20
BUSY_S = 0.2

ROUND_S = 0.3
MAX_ROUNDS = 4
ROUNDS_S = 2.0
"""After so much time a thread count gets no further round: a large model on a slow board has one."""
MAX_PROMPT_TOKENS = 256
MIN_DECODE_TOKENS, MAX_DECODE_TOKENS = 8, 64
REFERENCE_PROMPT_TOKENS, REFERENCE_ANSWER_TOKENS = 1000, 100
"""The request for which the best thread count is chosen."""

DISTURBED_FRACTION = 0.25
"""Rates measured while other programs took more of the CPU are provisional."""

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
        async with asyncio.timeout(BANDWIDTH_TIMEOUT_S):
            output, _ = await child.communicate()
    except TimeoutError:
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return max(map(float, json.loads(output).values())) if child.returncode == 0 else None


async def measure_busy() -> float | None:
    """Share of this machine's CPU time that is in use right now; None when the kernel does not tell."""
    root = Sysroot()
    before = read_cpu_times(root)
    await asyncio.sleep(BUSY_S)
    after = read_cpu_times(root)
    if before is None or after is None or after.total <= before.total:
        return None
    return min(1.0, max(0.0, (after.busy - before.busy) / (after.total - before.total)))


def today_utc() -> str:
    return datetime.now(tz=UTC).date().isoformat()


@dataclass(frozen=True, slots=True)
class Instruments:
    """What measuring takes: a clock, fresh engine workers, a look at how busy the machine is, and the date."""

    clock: Clock
    spawn: Spawn = spawn_engine
    busy: Callable[[], Awaitable[float | None]] = measure_busy
    today: Callable[[], str] = today_utc


async def measure_rates(
    model: ProbeModel,
    settings: EngineSettings,
    *,
    cores: int,
    bandwidth_bytes_s: float | None,
    instruments: Instruments,
) -> Rates:
    """Rates at the thread count that answers the reference request soonest. Raises EngineError, ModelFileError.

    Speed has one peak over threads: from all cores down, the first count that is slower ends the search.
    """
    busy = await instruments.busy()
    best: Rates | None = None
    for threads in thread_candidates(cores):
        prefill, decode, prompt_tokens = await _fastest_rounds(model, settings, threads, instruments)
        rates = Rates(
            prefill_tok_s=prefill,
            decode_tok_s=decode,
            roofline_fraction=_roofline(model, decode, bandwidth_bytes_s),
            threads=threads,
            kv_type=model.kv_type,
            prompt_tokens=prompt_tokens,
            busy_fraction=busy,
        )
        if best and reference_s(rates) > reference_s(best):
            break
        best = rates
    assert best is not None
    return best


def is_disturbed(rates: Rates) -> bool:
    """Whether other programs slowed the measurement so much that it deserves another."""
    return (rates.busy_fraction or 0.0) > DISTURBED_FRACTION


def reference_s(rates: Rates) -> float:
    """Seconds the reference request would take."""
    return REFERENCE_PROMPT_TOKENS / rates.prefill_tok_s + REFERENCE_ANSWER_TOKENS / rates.decode_tok_s


async def _fastest_rounds(
    model: ProbeModel, settings: EngineSettings, threads: int, instruments: Instruments
) -> tuple[float, float, int]:
    """Prefill and decode rates, each of its fastest round, since whatever else runs here can only slow one down, and
    the tokens of the prompt."""
    worker = await instruments.spawn()
    try:
        await load(worker, model, settings, threads=threads)
        deadline = instruments.clock() + ROUNDS_S
        chunk = min(model.chunk_tokens, MAX_PROMPT_TOKENS)
        rounds = [await _bench(worker, chunk, MIN_DECODE_TOKENS)]  # warms caches, and sizes the next rounds
        sizes = round_sizes(*rounds[0], chunk)
        while len(rounds) < MAX_ROUNDS and instruments.clock() < deadline:
            rounds.append(await _bench(worker, *sizes))
    finally:
        await worker.close()
    prefills, decodes = zip(*rounds, strict=True)
    return max(prefills), max(decodes), sizes[0]


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

"""Bounds on a worker's memory: real models live within theirs, and one that may have less says so and nothing else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import EdgeAgentError, OutOfMemoryError
from edgeagent.execution.confine import WorkerLimits
from edgeagent.execution.loss import Cause
from edgeagent.execution.supervisor import Worker
from edgeagent.model.fence import MIB, Load, fence
from edgeagent.model.footprint import Setup, predict, weigh
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS

USUAL: dict[str, Any] = {"kv_type": "q8_0", "flash_attention": True, "extra_buffers": REPACKS, "chunk_tokens": 64}


async def ends_as(path: Path, limits: WorkerLimits, threads: int, context: int) -> tuple[str, Worker]:
    """What loading and computing under limits comes to."""
    worker = await Worker.spawn("llama", limits=limits, is_quiet=True)
    try:
        settings = USUAL | {"path": str(path), "threads": threads, "context_tokens": context}
        await worker.call("load", stall_s=600, **settings)
        await worker.call("bench", stall_s=600, prompt_tokens=128, decode_tokens=2)
    except EdgeAgentError as error:
        return type(error).__name__, worker
    else:
        return "ok", worker
    finally:
        await worker.close()


def load_of(stored: StoredVariant, context: int, threads: int) -> Load:
    """As the pool forecasts it on a machine that repacks nothing: the least that it may come to think."""
    shape = stored.card.shape(stored.variant)
    weights = weigh(shape, stored.variant.file_type, frozenset(), stored.bytes)
    assert weights is not None
    forecast = predict(shape, weights, Setup(context, "q8_0", True, 64)).total_bytes
    cache = shape.kv_bytes_per_token("q8_0") * context
    return Load(forecast, stored.bytes, cache, shape.vocab, 64, threads, is_mapped=True)


@pytest.mark.parametrize(("context", "threads"), [(512, 1), (4096, 4)])
def test_embedded_model_lives_within_its_fence(smollm2: StoredVariant, context: int, threads: int) -> None:
    limits = fence(load_of(smollm2, context, threads))
    assert asyncio.run(ends_as(smollm2.path, limits, threads, context))[0] == "ok"
    assert limits.data_bytes < load_of(smollm2, context, threads).forecast_bytes + 400 * MIB


@pytest.mark.parametrize("data_mib", [20, 60, 95, 112, 130, 150, 170])
def test_worker_that_finds_no_memory_says_so_wherever_it_was(smollm2: StoredVariant, data_mib: int) -> None:
    """While Python starts, while libraries are mapped, while the vocabulary, a graph or a context is made."""
    name, worker = asyncio.run(ends_as(smollm2.path, WorkerLimits(data_bytes=data_mib * MIB), 2, 4096))
    assert name == OutOfMemoryError.__name__
    assert worker.cause in {Cause.NO_MEMORY, Cause.CLOSED}


SIZES = st.integers(0, 2**36)


@given(SIZES, SIZES, SIZES, st.integers(1, 64), st.booleans())
def test_more_to_hold_never_means_a_tighter_fence(less: int, more: int, file: int, threads: int, mapped: bool) -> None:
    low, high = sorted((less, more))
    one = fence(Load(low, file, low, 50_000, 64, threads, mapped))
    other = fence(Load(high, file, high, 50_000, 64, threads + 1, mapped))
    assert one.data_bytes < other.data_bytes
    assert one.address_bytes < other.address_bytes
    assert one.data_bytes + file < one.address_bytes
    assert one.data_bytes > low - (file if mapped else 0)

"""Rigs: what is fitted from their times is what made them, and a real pass on this machine is kept and goes on."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.hardware import KernelRates, Kernels, Overheads
from edgeagent.execution.supervisor import Worker
from edgeagent.resource import kernel_pass
from edgeagent.resource.capability import EngineSettings, spawn_engine
from edgeagent.resource.kernel_pass import Pass, complete, is_complete
from edgeagent.resource.kernels import (
    BATCHES,
    BYTES_PER_ELEMENT,
    DEFAULT_BYTES_PER_ELEMENT,
    KINDS,
    MAX_FILE_BYTES,
    NARROW,
    PAST_TOKENS,
    REFERENCE,
    TINY,
    BatchTimes,
    Rig,
    RigBench,
    kind_rates,
    overheads_of,
    wide_rig,
)
from edgeagent.resource.speed import batch_s
from tests.machine import REPACKS

CHUNK = 64
WIDE = wide_rig(REFERENCE, 32 * 2**20)


def machine(
    token_elem_s: float, chunk_elem_s: float, layer_s: float, vector_elem_s: float, attention_elem_s: float
) -> Kernels:
    rates = KernelRates(type=REFERENCE, threads=1, token_elem_s=token_elem_s, chunk_elem_s=chunk_elem_s)
    overheads = Overheads(
        threads=1,
        layer_s=layer_s,
        vector_elem_s=vector_elem_s,
        attention_token_elem_s=attention_elem_s,
        attention_chunk_elem_s=attention_elem_s,
    )
    return Kernels(chunk_tokens=CHUNK, rates=(rates,), overheads=(overheads,))


def times(kernels: Kernels, rig: Rig, past: int = 0) -> BatchTimes:
    def seconds(n: int) -> float:
        return batch_s(rig.load, kernels, 1, n, past)

    return BatchTimes(seconds(CHUNK), seconds(1), {n: seconds(n) for n in BATCHES})


@given(
    st.floats(1e9, 1e11),
    st.floats(1e10, 1e12),
    st.floats(1e-6, 1e-4),
    st.floats(1e7, 1e9),
    st.floats(1e9, 1e11),
)
def test_fit_finds_the_machine_that_made_the_times(
    token: float, chunk: float, layer_s: float, vector: float, attention: float
) -> None:
    made_by = machine(token, max(token, chunk), layer_s, vector, attention)
    shapes = (TINY, NARROW, WIDE)
    tiny, narrow, wide = (times(made_by, shape) for shape in shapes)
    found = overheads_of(1, CHUNK, tiny, narrow, times(made_by, NARROW, PAST_TOKENS), wide, WIDE)
    rates = kind_rates(WIDE, wide, found, CHUNK)
    again = made_by.model_copy(update={"overheads": (found,), "rates": (rates,)})
    other = Rig(REFERENCE, layers=30, width=576, ffn=1536, heads=9, kv_heads=3)
    for tokens, past in itertools.product((1, CHUNK), (0, 500)):
        assert batch_s(other.load, again, 1, tokens, past) == pytest.approx(
            batch_s(other.load, made_by, 1, tokens, past), rel=0.12
        )


def test_wide_rigs_leave_the_cache_and_respect_the_limit() -> None:
    for kind, cache in itertools.product(KINDS, (0, 2**20, 32 * 2**20, 2**30)):
        rig = wide_rig(kind, cache)
        assert rig.layers >= 2
        held = rig.elements * BYTES_PER_ELEMENT.get(kind, DEFAULT_BYTES_PER_ELEMENT)
        assert held >= min(2 * cache, 0.9 * MAX_FILE_BYTES)
        assert wide_rig(kind, cache, max_bytes=2**20).layers == 2


def bench(folder: Path) -> RigBench:
    return RigBench(spawn_engine, EngineSettings(REPACKS, True), "q8_0", CHUNK, (1,), folder, cache_bytes=0)


class Ticks:
    """A clock on which every look costs a second: budgets end after a known number of steps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_pass_stops_at_its_budget_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_pass, "KINDS", ("Q8_0", "Q4_0", "no such type"))
    kept: list[Kernels] = []
    said: list[str] = []
    work = Pass(bench(tmp_path), Ticks(), "2026-01-01", 4.0, lambda what, _share: said.append(what), kept.append)
    first = asyncio.run(complete(None, work))
    assert [r.type for r in first.rates] == ["Q8_0", "Q4_0"]
    assert (first.steady_fraction, is_complete(first)) == (None, False)
    assert kept[-1] == first
    second = asyncio.run(complete(first, replace(work, clock=Ticks(), budget_s=60.0)))
    assert second.rates == first.rates
    assert "no such type" in second.absent["no such type"]
    assert second.steady_fraction is not None
    assert is_complete(second)
    assert said.count("layers, attention, batch sizes") == 1
    assert list(tmp_path.iterdir()) == []


def test_rig_of_every_type_can_be_made_and_loaded(tmp_path: Path) -> None:
    async def load(kind: str) -> int:
        worker = await Worker.spawn("llama")
        target = str(tmp_path / f"{kind}.gguf")
        shape: dict[str, Any] = {"layers": 1, "width": 256, "ffn": 256, "heads": 4, "kv_heads": 2}
        settings: dict[str, Any] = {"kv_type": "q8_0", "threads": 1, "chunk_tokens": 64, "context_tokens": 128}
        flags: dict[str, Any] = {"extra_buffers": REPACKS, "flash_attention": True}
        try:
            made, _ = await worker.call("rig", kind=kind, target=target, context_tokens=128, **shape)
            await worker.call("load", path=target, **settings, **flags)
            reply, _ = await worker.call("time", spans=[64, 1], threads=1)
        finally:
            await worker.close()
        assert len(reply["seconds"]) == 2
        return int(made["elements"])

    for kind in KINDS:
        assert asyncio.run(load(kind)) == 256 * (256 + 256 + 128 + 128 + 3 * 256)

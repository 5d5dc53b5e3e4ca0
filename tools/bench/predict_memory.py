"""A worker's peak memory, predicted and measured: the memory part of the `predict` bench."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeagent.core.cards import KvType
from edgeagent.core.generation import Sampling
from edgeagent.execution.supervisor import Worker
from edgeagent.model.footprint import Loading, Setup, predict, weigh
from edgeagent.model.machine import repacked_types
from edgeagent.model.store import StoredVariant
from edgeagent.resource.probes.cpu import read_cpu
from edgeagent.resource.probes.sysroot import Sysroot

CONTEXTS = (1024, 4096)
KV_TYPES: tuple[KvType, ...] = ("q8_0", "f16")
CHUNK_TOKENS = 64
PROMPT = "Write two sentences about the weather in April. " * 24
ANSWER_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Case:
    """One way to load one variant. `repacked`: the tensor types that the engine repacks on this machine."""

    stored: StoredVariant
    context_tokens: int
    kv_type: KvType
    repacked: frozenset[str]
    loading: Loading = "mapped"
    flash_attention: bool = True

    def __str__(self) -> str:
        name = f"{self.stored.card.id}/{self.stored.variant.name}"
        return f"{name}, {self.context_tokens} tokens of {self.kv_type}, {self.loading}"


Measured = tuple[Case, int, int]
"""A case, the bytes predicted, and the worker's `VmHWM` in bytes."""


def repacked_here(*, is_able: bool) -> frozenset[str]:
    """The tensor types that the engine repacks on this machine, by its CPU's features; none where that crashes."""
    return repacked_types(read_cpu(Sysroot()).features, None) if is_able else frozenset()


def cases(stored: Iterable[StoredVariant], repacked: frozenset[str]) -> list[Case]:
    """Every variant at both context sizes and both cache types."""
    return [Case(s, context, kind, repacked) for s in stored for context in CONTEXTS for kind in KV_TYPES]


def measure(wanted: Sequence[Case]) -> list[Measured]:
    """Load each case in a worker of its own and answer a prompt with it."""
    return [(case, predicted_bytes(case), asyncio.run(peak_bytes(case))) for case in wanted]


def error_of(measured: Measured) -> float:
    """The prediction's distance from the measurement, as a fraction of the latter."""
    _, predicted, actual = measured
    return abs(predicted - actual) / actual


def predicted_bytes(case: Case) -> int:
    shape = case.stored.card.shape(case.stored.variant)
    weights = weigh(shape, case.stored.variant.file_type, case.repacked, case.stored.bytes)
    assert weights is not None
    setup = Setup(
        min(case.context_tokens, shape.context_tokens), case.kv_type, case.flash_attention, CHUNK_TOKENS, case.loading
    )
    return predict(shape, weights, setup).total_bytes


async def peak_bytes(case: Case) -> int:
    worker = await Worker.spawn("llama")
    try:
        await worker.call(
            "load",
            path=str(case.stored.path),
            context_tokens=case.context_tokens,
            kv_type=case.kv_type,
            flash_attention=case.flash_attention,
            threads=1,
            extra_buffers=bool(case.repacked),
            chunk_tokens=CHUNK_TOKENS,
        )
        encoded, _ = await worker.call("encode", messages=[{"role": "user", "content": PROMPT}])
        sampling = Sampling().model_dump(mode="json")
        await worker.call(
            "generate",
            prompt=encoded["tokens"],
            output=[],
            sampling=sampling,
            max_tokens=ANSWER_TOKENS,
        )
        return high_water_bytes(worker.pid)
    finally:
        await worker.close()


def high_water_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

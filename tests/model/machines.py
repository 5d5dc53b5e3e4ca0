"""Machines for tests of selection: measured ones, and all boards as their profiles describe them."""

from functools import cache
from pathlib import Path

from edgeagent.core.hardware import KernelRates, Kernels, Overheads
from edgeagent.model.machine import AVX2_TYPES, Machine
from edgeagent.model.mixes import TYPES
from edgeagent.model.registry import Registry

ROOT = Path(__file__).parents[2]


@cache
def registry() -> Registry:
    return Registry.load(ROOT / "models")


def kernels(speed: float = 1.0, threads: tuple[int, ...] = (1, 2)) -> Kernels:
    """A machine that applies `speed` billion weights a second and thread to a token, bytes counting, and five times
    as many to a prompt."""
    rates = [
        KernelRates(
            type=kind.name,
            threads=count,
            token_elem_s=speed * 1e9 * count * kind.block_elements / kind.block_bytes,
            chunk_elem_s=speed * 5e9 * count,
        )
        for kind in TYPES.values()
        for count in threads
    ]
    overheads = [
        Overheads(
            threads=n,
            layer_s=1e-5,
            vector_elem_s=1e9 * n,
            attention_token_elem_s=1e9 * n,
            attention_chunk_elem_s=5e9 * n,
        )
        for n in threads
    ]
    return Kernels(chunk_tokens=64, rates=tuple(rates), overheads=tuple(overheads))


def machine(speed: float | None = None, **more: object) -> Machine:
    """An x86 machine with AVX2; with a speed, one whose arithmetic was measured."""
    facts: dict[str, object] = {"repacked": AVX2_TYPES, "kernels": kernels(speed) if speed else None}
    return Machine(**(facts | more))  # type: ignore[arg-type]

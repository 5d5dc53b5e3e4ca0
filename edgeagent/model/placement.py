"""The ways one variant could run on a machine: cache type, where its weights are, and what that costs. Pure.

No option depends on how much memory there is: which of them fit is decided afterwards, so that more memory only adds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgeagent.core.cards import Architecture, KvType
from edgeagent.model.footprint import Setup, Weights, largest_context, predict
from edgeagent.model.forecast import PROMPT_TOKENS, Speed
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine

CONTEXT_GRAIN = 256
"""llama.cpp pads a context to a multiple of so many tokens."""
RESIDENT_STEPS = 8
"""Paged experts are weighed with so many eighths of them in memory."""


@dataclass(frozen=True, slots=True)
class Placement:
    """`gpu_layers` counts from the last layer on and the output head as one more, as llama.cpp does.

    `experts_on_cpu`: of the layers on a GPU, the experts' tensors stay in the machine's own memory.
    """

    setup: Setup
    gpu_layers: int = 0
    experts_on_cpu: bool = False
    gpu_bytes: int = 0
    """Memory it takes on a GPU that has its own."""

    @property
    def text(self) -> str:
        """For people: where the weights are."""
        if self.gpu_layers:
            return f"{self.gpu_layers} layers on the GPU" + (", experts on the CPU" if self.experts_on_cpu else "")
        if self.setup.loading == "paged":
            return f"CPU, {self.setup.resident_share:.0%} of what is paged from storage kept in memory"
        return "CPU" if self.setup.loading == "mapped" else "CPU, weights read instead of mapped"


@dataclass(frozen=True, slots=True)
class Option:
    """A placement and what it means. `least_bytes`: memory with the shortest context that is acceptable."""

    placement: Placement
    least_bytes: int
    speed: Speed | None

    def context_within(self, shape: Architecture, weights: Weights, limits: Limits) -> int:
        """The longest context that fits the memory limit, up to the wanted one."""
        wanted = wanted_context(shape, limits)
        on_gpu = self.placement.gpu_bytes  # counted for the whole context, and not in this machine's memory
        most = largest_context(shape, weights, self.placement.setup, limits.memory_bytes + on_gpu)
        if most >= wanted:
            return wanted
        return max(least_context(shape, limits), most // CONTEXT_GRAIN * CONTEXT_GRAIN)

    def memory_bytes(self, shape: Architecture, weights: Weights, context_tokens: int) -> int:
        setup = replace(self.placement.setup, context_tokens=context_tokens)
        return max(0, predict(shape, weights, setup).total_bytes - self.placement.gpu_bytes)


def wanted_context(shape: Architecture, limits: Limits) -> int:
    return min(limits.context_tokens, shape.context_tokens)


def least_context(shape: Architecture, limits: Limits) -> int:
    """The shortest context that is acceptable: as configured, else half the wanted one."""
    return min(wanted_context(shape, limits), limits.min_context_tokens or -(-limits.context_tokens // 2))


def options(
    shape: Architecture, weights: Weights, speed: Speed | None, machine: Machine, limits: Limits
) -> Iterator[Option]:
    """Every way to run the variant, best first: exact cache before coarse, GPU before CPU, memory before storage."""
    for kv_type in cache_types(shape, machine, limits):
        setup = Setup(least_context(shape, limits), kv_type, machine.flash_attention, limits.chunk_tokens)
        yield from _on_gpu(shape, weights, setup, machine, limits)
        if machine.can_map:
            yield _option(shape, weights, Placement(setup), speed)
        if weights.repacked_bytes or not machine.can_map:
            yield _option(shape, weights, Placement(replace(setup, loading="read")), speed)
        yield from _paged(shape, weights, setup, speed, machine, limits)


def cache_types(shape: Architecture, machine: Machine, limits: Limits) -> tuple[KvType, ...]:
    """The wanted type where model and machine allow it, else f16; then q4_0, if that may be fallen back to."""
    allowed = [kind for kind in machine.kv_types if shape.allows_kv(kind)]
    wanted: KvType = limits.kv_type if limits.kv_type in allowed else "f16"
    if limits.coarse_cache and "q4_0" in allowed and wanted != "q4_0":
        return (wanted, "q4_0")
    return (wanted,)


def _option(shape: Architecture, weights: Weights, placement: Placement, speed: Speed | None) -> Option:
    least = predict(shape, weights, placement.setup).total_bytes - placement.gpu_bytes
    return Option(placement, max(0, least), speed)


def _on_gpu(shape: Architecture, weights: Weights, setup: Setup, machine: Machine, limits: Limits) -> Iterator[Option]:
    """The most that its GPU can take. Its speed is not known before it was measured.

    Weights are read, not mapped: a GPU that shares the machine's memory would have them there twice.
    """
    if machine.gpu is None:
        return
    on_gpu = replace(setup, loading="read")
    whole = Placement(on_gpu, gpu_layers=shape.layers + 1)
    if machine.gpu.memory_bytes is None:
        yield _option(shape, weights, whole, None)
        return
    for placement in _gpu_placements(shape, weights, whole, limits):
        if placement.gpu_bytes <= machine.gpu.memory_bytes:
            yield _option(shape, weights, placement, None)
            return


def _gpu_placements(shape: Architecture, weights: Weights, whole: Placement, limits: Limits) -> Iterator[Placement]:
    """Everything; everything but experts; then fewer and fewer layers, cut where the model may be cut.

    The cache counts for the whole wanted context, and compute buffers count, too.
    """
    full = predict(shape, weights, replace(whole.setup, context_tokens=wanted_context(shape, limits)))
    work, layers = full.compute_bytes, weights.layer_bytes + full.cache_bytes
    yield replace(whole, gpu_bytes=layers + weights.head_bytes + work)
    if shape.experts:
        rest = layers - weights.expert_bytes + weights.head_bytes + work
        yield replace(whole, experts_on_cpu=True, gpu_bytes=rest)
    for cut in shape.split_points():
        share = (shape.layers - cut) / shape.layers
        yield replace(whole, gpu_layers=shape.layers - cut, gpu_bytes=round(layers * share) + work)


def _paged(
    shape: Architecture, weights: Weights, setup: Setup, speed: Speed | None, machine: Machine, limits: Limits
) -> Iterator[Option]:
    """Weights that stay in the file, where storage was measured and is fast enough for the TPOT target.

    Of experts, a token misses the share that is not in memory. Without experts every token sweeps all layers in the
    same order, which under least-recently-used replacement leaves nothing to be found in memory: all are read.
    """
    rate = machine.storage_read_bytes_s
    if not rate or weights.load is None or not machine.can_map:
        return
    for step in range(RESIDENT_STEPS - 1, -1, -1) if weights.expert_bytes else (0,):
        share = step / RESIDENT_STEPS
        token_bytes, chunk_bytes = _missed(shape, weights, share, limits.chunk_tokens)
        if token_bytes / rate > limits.tpot_s:
            return
        placement = Placement(replace(setup, loading="paged", resident_share=share))
        yield _option(shape, weights, placement, _slowed(speed, token_bytes / rate, chunk_bytes / rate, limits))


def _missed(shape: Architecture, weights: Weights, share: float, chunk_tokens: int) -> tuple[float, float]:
    """Bytes read from storage for one token, and for one prompt chunk."""
    if shape.experts is None:
        return weights.layer_bytes, weights.layer_bytes
    missing = weights.expert_bytes * (1 - share)
    used = shape.experts.used / shape.experts.count
    return missing * used, missing * (1 - (1 - used) ** chunk_tokens)


def _slowed(speed: Speed | None, token_s: float, chunk_s: float, limits: Limits) -> Speed:
    """Reading is not overlapped with computing. Nobody measured it: an estimate."""
    num_chunks = -(-PROMPT_TOKENS // limits.chunk_tokens)
    ttft_s = num_chunks * chunk_s + ((speed.ttft_s or 0.0) if speed else 0.0)
    tpot_s = token_s + ((speed.tpot_s or 0.0) if speed else 0.0)
    return Speed(ttft_s, tpot_s, speed.threads if speed else None, "estimated")

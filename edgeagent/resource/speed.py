"""Predicts how fast any decoder runs here, from its shape and this machine's measured kernels. Pure arithmetic.

A batch of `n` tokens costs, in each layer, a fixed overhead, its weights applied `n` times, work in proportion to the
width, and attention over the positions before it; the output head is applied once, to the last token. One token at a
time is bound by memory, a prompt chunk by arithmetic (the roofline model: Williams et al., CACM 52(4), 2009); each
regime is measured.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from edgeagent.core.hardware import KernelRates, Kernels, Overheads

Elements = Mapping[str, int]
"""Weights by ggml tensor type."""

STAND_INS = {
    "F32": ("F16", "Q8_0"), "BF1": ("F16", "Q8_0"), "F16": ("Q8_0",), "Q8_": ("Q6_K",), "Q6_": ("Q8_0", "Q5_K"),
    "Q5_": ("Q5_K", "Q5_0", "Q4_K"), "Q4_": ("Q4_K", "Q4_0"), "Q3_": ("Q4_K",), "Q2_": ("Q3_K", "Q4_K"),
    "IQ4": ("IQ4_NL", "IQ4_XS", "Q4_K"), "IQ3": ("Q3_K", "Q4_K"), "IQ2": ("Q2_K", "Q3_K"), "IQ1": ("Q2_K",),
    "TQ1": ("Q2_K",), "TQ2": ("Q2_K",), "MXF": ("IQ4_NL", "Q4_K"),
}  # fmt: skip
"""For a type (by its first letters) that was not measured yet: types of about its size and work, nearest first."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one variant asks of a machine for every token.

    `layers`: weights applied to a token over all layers (of experts, the used ones only). `head`: the output head's.
    """

    num_layers: int
    width: int
    layers: Elements
    head: Elements
    attention_width: int
    """heads x head size."""
    window_layers: int = 0
    """Layers that attend to the last `window` positions only."""
    window: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """CPU time allowed: `cores` x `period_s` in every period (cgroup bandwidth control)."""

    cores: float
    period_s: float = 0.1


def prefill_s(
    load: Load, kernels: Kernels, threads: int, tokens: int, *, past: int = 0, quota: Quota | None = None
) -> float:
    """Seconds to evaluate `tokens` of a prompt behind `past` cached ones, in chunks of `kernels.chunk_tokens`."""
    chunk, total = kernels.chunk_tokens, 0.0
    for start in range(0, tokens, chunk):
        total += batch_s(load, kernels, threads, min(chunk, tokens - start), past + start)
    return throttled_s(total, threads, quota)


def decode_s(load: Load, kernels: Kernels, threads: int, context: int, *, quota: Quota | None = None) -> float:
    """Seconds for one more token behind `context` cached ones."""
    return throttled_s(batch_s(load, kernels, threads, 1, context), threads, quota, is_long=True)


def batch_s(load: Load, kernels: Kernels, threads: int, tokens: int, past: int) -> float:
    """Seconds for one batch of one token to one whole chunk."""
    chunk, overheads = kernels.chunk_tokens, _overheads(kernels, threads)
    share = _share(overheads, tokens, chunk)
    single = sum(n / _rates(kernels, kind, threads).token_elem_s for kind, n in load.layers.items())
    whole = sum(n * chunk / _rates(kernels, kind, threads).chunk_elem_s for kind, n in load.layers.items())
    whole += load.num_layers * chunk * load.width / overheads.vector_elem_s
    head = sum(n / _rates(kernels, kind, threads).token_elem_s for kind, n in load.head.items())
    beside = head + load.num_layers * overheads.layer_s
    return (1 - share) * single + share * whole + beside + attention_s(load, overheads, tokens, past)


def _share(overheads: Overheads, tokens: int, chunk: int) -> float:
    """How far a batch's time lies from one token's to a whole chunk's: measured sizes, straight lines between them."""
    known = sorted({**overheads.batch_shares, 1: 0.0, chunk: 1.0}.items())
    for (low, low_share), (high, high_share) in itertools.pairwise(known):
        if low <= tokens <= high:
            return low_share + (high_share - low_share) * (tokens - low) / (high - low)
    return tokens / chunk  # larger than the chunk: in proportion


def position_s(load: Load, kernels: Kernels, threads: int) -> tuple[float, float]:
    """Seconds that one earlier position adds to a prompt token and to an answer token, where no window ends.

    Raises ValueError when so many threads were not measured.
    """
    overheads, width = _overheads(kernels, threads), load.num_layers * load.attention_width
    return width / overheads.attention_chunk_elem_s, width / overheads.attention_token_elem_s


def throttled_s(busy_s: float, threads: int, quota: Quota | None, *, is_long: bool = False) -> float:
    """How long work takes that would take `busy_s` unhindered: in each period, threads run until the quota is spent.

    Work that starts after a pause finds a quota that is fresh, on average for half of what a period allows; a part of
    a stream (`is_long`) does not.
    """
    if quota is None or quota.cores >= threads:
        return busy_s
    burst_s = quota.cores * quota.period_s / threads
    num_pauses = busy_s / burst_s - (0 if is_long else 0.5)
    return busy_s + max(0.0, num_pauses) * (quota.period_s - burst_s)


def attention_s(load: Load, overheads: Overheads, tokens: int, past: int) -> float:
    """Seconds that `tokens` attend to `past` positions and to those before each of themselves."""
    rate = overheads.attention_token_elem_s if tokens == 1 else overheads.attention_chunk_elem_s
    reach = past + (tokens + 1) / 2
    window = min(reach, load.window) if load.window_layers else 0
    positions = (load.num_layers - load.window_layers) * reach + load.window_layers * window
    return tokens * positions * load.attention_width / rate


def _rates(kernels: Kernels, kind: str, threads: int) -> KernelRates:
    """The rates of this type, or of its nearest measured kin. Raises ValueError when neither was measured."""
    measured = {rates.type: rates for rates in kernels.rates if rates.threads == threads}
    for name in (kind, *STAND_INS.get(kind[:3], ())):
        if name in measured:
            return measured[name]
    raise ValueError(f"type {kind} was not measured with {threads} threads; refresh the profile")


def _overheads(kernels: Kernels, threads: int) -> Overheads:
    for overheads in kernels.overheads:
        if overheads.threads == threads:
            return overheads
    raise ValueError(f"overheads were not measured with {threads} threads; refresh the profile")

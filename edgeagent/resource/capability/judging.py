"""Whether what came out is right, compared with what the safe way computes. Pure.

Survival is not enough: some GPU drivers compute garbage without an error.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeagent.core.hardware import CapabilityVerdict

MIN_AGREEMENT = 0.7
"""Share of positions with the same likeliest token. SmolLM2 135M Q4_1 on an AMD EPYC, 128 positions, against no extra
buffers, no flash attention and an f16 cache: flash attention 95 %, q8_0 cache 96 %, q4_0 cache 86 %; larger models
agree more. Unrelated logits agree on hardly any."""

MAX_SURPRISE_NATS = 0.5
"""Rise of the text's mean negative log-likelihood. The q4_0 cache, the coarsest, raised it by 0.03 on that machine;
uniform guesses over its vocabulary are 7 nats worse."""

MAX_RELATIVE_ERROR = 0.05
"""L2 norm of the difference over that of the CPU's output. float16 keeps 11 bits and bfloat16 8 (a rounding error of
0.4 %), which a few layers add up; a wrong kernel is off by the size of the output."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, why in words, and what the engine is thereby known to have."""

    verdict: CapabilityVerdict
    reason: str
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one text: the likeliest next token of each position, and the mean negative log-likelihood in nats."""

    top1: tuple[int, ...]
    nll: float
    is_finite: bool


def agreement(reference: Reading, found: Reading) -> int:
    """Positions with the same likeliest token."""
    return sum(a == b for a, b in zip(reference.top1, found.top1, strict=False))


def misreading(reference: Reading, found: Reading) -> str:
    """What is wrong with a reading; empty when it is as good as the reference."""
    total, same = len(reference.top1), agreement(reference, found)
    if not found.is_finite:
        return "wrong results: logits that are no numbers"
    if len(found.top1) != total or same < MIN_AGREEMENT * total:
        return f"wrong results: {same} of {total} likeliest tokens are those of the safe settings"
    if not found.nll <= reference.nll + MAX_SURPRISE_NATS:  # also when it is no number
        return f"wrong results: {found.nll:.2f} nats a token instead of {reference.nll:.2f}"
    return ""


def floats(bulk: bytes) -> "array[float]":
    """Little-endian float32 values as they come from a worker on this machine."""
    values = array("f")
    values.frombytes(bulk)
    return values


def deviation(reference: Sequence[float], found: Sequence[float]) -> str:
    """What is wrong with an output; empty when it is the reference's within MAX_RELATIVE_ERROR."""
    if len(reference) != len(found):
        return f"wrong results: {len(found)} values instead of {len(reference)}"
    if not all(map(math.isfinite, found)):
        return "wrong results: values that are no numbers"
    error = relative_error(reference, found)
    return f"wrong results: off by {error:.0%} of the CPU's output" if error > MAX_RELATIVE_ERROR else ""


def relative_error(reference: Sequence[float], found: Sequence[float]) -> float:
    """L2 norm of the difference over that of the reference."""
    return math.dist(reference, found) / (math.hypot(*reference) or 1.0)

"""How fast a variant will answer here: as measured, as predicted from measured arithmetic, or as estimated. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgeagent.model.footprint import Weights
from edgeagent.model.machine import Machine, Sketch
from edgeagent.resource.speed import Load, decode_s, prefill_s

PROMPT_TOKENS = 1000
"""The prompt whose time to first token the latency target is about."""
ANSWER_TOKENS = 100
"""The answer that makes up the reference request with it."""

Basis = Literal["measured", "predicted", "estimated"]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds to the first token of the reference request, and for each further one. None: no figure to go by.

    `measured`: this variant's own rates. `predicted`: from the machine's measured arithmetic. `estimated`: scaled from
    another variant's rates, or from figures that others wrote down.
    """

    ttft_s: float | None
    tpot_s: float | None
    threads: int | None
    basis: Basis

    @property
    def prefill_tok_s(self) -> float | None:
        return PROMPT_TOKENS / self.ttft_s if self.ttft_s else None

    @property
    def decode_tok_s(self) -> float | None:
        return 1 / self.tpot_s if self.tpot_s else None

    @property
    def request_s(self) -> float | None:
        """Seconds for the whole reference request."""
        if self.ttft_s is None or self.tpot_s is None:
            return None
        return self.ttft_s + ANSWER_TOKENS * self.tpot_s


def forecast(key: str, weights: Weights, machine: Machine, sketch: Sketch, threads: int | None = None) -> Speed | None:
    """The best that is known of `key` (`<model id>/<variant>`) on the CPU; `sketch` is the machine's or a better one.

    `threads` fixes their number; rates that were measured with another number are then not used.
    """
    rates = machine.rates.get(key)
    if rates and threads in {None, rates.threads}:
        return Speed(PROMPT_TOKENS / rates.prefill_tok_s, 1 / rates.decode_tok_s, rates.threads, "measured")
    if weights.load and (predicted := _predicted(weights.load, machine, threads)):
        return predicted
    ttft_s = tpot_s = None
    if sketch.prefill_elem_s and weights.load:
        ttft_s = PROMPT_TOKENS * sum(weights.load.layers.values()) / sketch.prefill_elem_s
    if sketch.read_bytes_s:
        tpot_s = weights.token_bytes / sketch.read_bytes_s
    return Speed(ttft_s, tpot_s, None, "estimated") if ttft_s or tpot_s else None


def sketch_from_rates(weights: Mapping[str, Weights], machine: Machine, key: str) -> Sketch:
    """What the rates of the measured variant nearest in size say about `key`; the machine's own sketch without any."""
    measured = [other for other in weights if other in machine.rates]
    if not measured or key not in weights:
        return machine.sketch
    nearest = min(measured, key=lambda other: (abs(weights[other].file_bytes - weights[key].file_bytes), other))
    rates, load = machine.rates[nearest], weights[nearest].load
    elements = sum(load.layers.values()) if load else 0
    return Sketch(rates.decode_tok_s * weights[nearest].token_bytes, rates.prefill_tok_s * elements or None)


def _predicted(load: Load, machine: Machine, threads: int | None) -> Speed | None:
    """At the measured number of threads that answers the reference request soonest."""
    if machine.kernels is None:
        return None
    counts = [n for n in machine.kernels.threads if threads in {None, n}]
    found = [speed for n in counts if (speed := _with_threads(load, machine, n))]
    return min(found, key=lambda speed: (speed.request_s or 0.0, speed.threads or 0), default=None)


def _with_threads(load: Load, machine: Machine, threads: int) -> Speed | None:
    """None when the machine was not measured with one of the load's tensor types."""
    assert machine.kernels is not None
    try:
        ttft_s = prefill_s(load, machine.kernels, threads, PROMPT_TOKENS, quota=machine.quota)
        tpot_s = decode_s(load, machine.kernels, threads, PROMPT_TOKENS, quota=machine.quota)
    except ValueError:
        return None
    return Speed(ttft_s, tpot_s, threads, "predicted")

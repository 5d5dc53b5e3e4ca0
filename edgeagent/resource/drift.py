"""Notices when a machine no longer runs as it was measured: heat, power, a new neighbour, a new kernel. Pure."""

import math
from dataclasses import dataclass

WEIGHT = 0.2
"""Of a new sample in the moving mean."""
MIN_SAMPLES = 6
LIMIT = math.log(1.3)
"""Measured against predicted, beyond which (either way) rates are worth measuring again."""
MIN_PROMPT_TOKENS, MIN_ANSWER_TOKENS = 64, 8
"""Of less, start-up and chance dominate."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One local answer, in seconds: `ttft` is None where part of the prompt was cached."""

    prompt_tokens: int
    answer_tokens: int
    ttft_s: float | None
    predicted_ttft_s: float
    tpot_s: float | None
    predicted_tpot_s: float


@dataclass(frozen=True, slots=True)
class Drift:
    """Moving mean of log(measured / predicted), and how many samples it has seen."""

    mean_log: float = 0.0
    num_samples: int = 0

    def with_sample(self, sample: Sample) -> "Drift":
        """Takes what the sample can tell; one that tells nothing changes nothing."""
        mean, count = self.mean_log, self.num_samples
        for ratio in _ratios(sample):
            log = math.log(ratio)
            mean = log if count == 0 else (1 - WEIGHT) * mean + WEIGHT * log
            count += 1
        return Drift(mean, count)

    @property
    def factor(self) -> float:
        """How many times slower than predicted (below 1: faster)."""
        return math.exp(self.mean_log)

    @property
    def is_drifted(self) -> bool:
        return self.num_samples >= MIN_SAMPLES and abs(self.mean_log) > LIMIT


def _ratios(sample: Sample) -> list[float]:
    """Measured against predicted, of whatever was long enough to tell."""
    ratios: list[float] = []
    if sample.ttft_s and sample.prompt_tokens >= MIN_PROMPT_TOKENS:
        ratios.append(sample.ttft_s / sample.predicted_ttft_s)
    if sample.tpot_s and sample.answer_tokens >= MIN_ANSWER_TOKENS:
        ratios.append(sample.tpot_s / sample.predicted_tpot_s)
    return ratios

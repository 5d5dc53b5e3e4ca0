"""How far predictions of a plan with a peer have lately been off, and what that makes of the next ones. Pure.

A prediction errs by what no rate tells of: a neighbour on the peer's cores, a broker far away, a slow radio. Errors
of that kind last, so the next prediction is multiplied by what the last ones missed. A plan that was found slow is not
run any more, and nothing would tell that it has recovered: so what was found is forgotten by half in HALF_LIFE_S.
"""

import math
from dataclasses import dataclass, field, replace

from edgeagent.resource.cost import Price

WEIGHT = 0.25
"""Of a new sample in the moving mean."""
PRIOR_SAMPLES = 1.0
"""So many samples count as if they had met the prediction: one alone moves it by half of what it missed."""
LIMIT = 3.0
"""A prediction is corrected by no more than this factor, either way."""
HALF_LIFE_S = 600.0
MIN_ANSWER_TOKENS = 8
"""Of less, chance dominates the pace."""


@dataclass(frozen=True, slots=True)
class Factors:
    """What the time to the first token, and that from there on, are multiplied by."""

    first: float = 1.0
    rest: float = 1.0

    def applied(self, price: Price) -> Price:
        rest_s = max(0.0, price.total_s - price.ttft_s) * self.rest
        ttft_s = price.ttft_s * self.first
        return replace(price, ttft_s=ttft_s, tpot_s=price.tpot_s * self.rest, total_s=ttft_s + rest_s)


@dataclass(frozen=True, slots=True)
class Sample:
    """What an answer took, against its prediction before any correction. None: the answer does not tell."""

    ttft_ratio: float | None
    tpot_ratio: float | None

    @classmethod
    def of(
        cls, measured: tuple[float | None, float | None], predicted: tuple[float, float], factors: Factors, tokens: int
    ) -> "Sample":
        """Times to the first token and between tokens; `predicted` has the `factors` in it."""
        tpot_s = measured[1] if tokens >= MIN_ANSWER_TOKENS else None
        return cls(_ratio(measured[0], predicted[0] / factors.first), _ratio(tpot_s, predicted[1] / factors.rest))


def _ratio(measured_s: float | None, predicted_s: float) -> float | None:
    return measured_s / predicted_s if measured_s and predicted_s > 0 else None


@dataclass(frozen=True, slots=True)
class _Mean:
    """Moving mean of log(measured / predicted)."""

    log: float = 0.0
    num_samples: float = 0.0

    def faded(self, age_s: float) -> "_Mean":
        part = 0.5 ** (max(0.0, age_s) / HALF_LIFE_S)
        return _Mean(self.log, self.num_samples * part)

    def with_ratio(self, ratio: float | None) -> "_Mean":
        if ratio is None:
            return self
        log = min(max(math.log(ratio), -math.log(LIMIT)), math.log(LIMIT))
        weight = max(WEIGHT, 1 / (self.num_samples + 1))
        return _Mean(self.log + weight * (log - self.log), min(self.num_samples + 1, 1 / WEIGHT))

    @property
    def factor(self) -> float:
        return math.exp(self.log * self.num_samples / (self.num_samples + PRIOR_SAMPLES))


@dataclass(frozen=True, slots=True)
class Correction:
    """Of one plan with one peer. `at_s`, seconds of any one clock, is when the newest sample came."""

    at_s: float = 0.0
    _first: _Mean = field(default_factory=_Mean)
    _rest: _Mean = field(default_factory=_Mean)

    def with_sample(self, sample: Sample, now_s: float) -> "Correction":
        age_s = now_s - self.at_s
        return Correction(
            now_s,
            self._first.faded(age_s).with_ratio(sample.ttft_ratio),
            self._rest.faded(age_s).with_ratio(sample.tpot_ratio),
        )

    def factors(self, now_s: float) -> Factors:
        age_s = now_s - self.at_s
        return Factors(self._first.faded(age_s).factor, self._rest.faded(age_s).factor)

"""The learned score: a logistic function of weighted features; the weights ship in `recall.json`."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from operator import mul
from typing import Any

from edgeagent.agent.memory.features import NAMES


@dataclass(frozen=True, slots=True)
class Scorer:
    """`weights` belong to features, in order: those of NAMES unless others are named."""

    weights: tuple[float, ...]
    offset: float

    @classmethod
    def of(cls, weights: dict[str, float], offset: float, names: Sequence[str] = NAMES) -> "Scorer":
        """A feature without a weight does not count. Raises ValueError for an unknown one."""
        if unknown := weights.keys() - set(names):
            raise ValueError(f"weights of unknown features {sorted(unknown)}; learn them again")
        return cls(tuple(weights.get(name, 0.0) for name in names), offset)

    def score(self, features: Sequence[float]) -> float:
        """How likely the memory holds what was asked for: between 0 and 1."""
        raw = self.offset + sum(map(mul, self.weights, features))
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, raw))))

    def scores(self, rows: Iterable[Sequence[float]]) -> list[float]:
        return [self.score(row) for row in rows]


@cache
def shipped() -> Scorer:
    """The weights that come with the program; `tools/learn_recall.py` made them."""
    found = document()
    return Scorer.of(found["weights"], found["offset"])


def document() -> dict[str, Any]:
    """The file of weights."""
    found: dict[str, Any] = json.loads(resources.files(__package__).joinpath("recall.json").read_text(encoding="utf-8"))
    return found

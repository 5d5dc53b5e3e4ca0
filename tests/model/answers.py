"""Answers of a made-up small model, as a calibration sees them."""

import random

from edgeagent.core.generation import Alternative, TokenStep
from edgeagent.model.cascade import Outcome


def tokens(sureness: float, count: int) -> list[TokenStep]:
    """Tokens whose best alternative is more probable the surer the model is."""
    logprob = -1.5 + sureness
    top = (Alternative(1, b"x", logprob), Alternative(2, b"y", -2.5))
    return [TokenStep(i, 1, b"x", logprob=logprob, top=top) for i in range(count)]


def outcomes(count: int = 120, *, seed: int = 0, length: int = 4, larger: bool = True) -> list[Outcome]:
    """A small model that is right oftener where it is sure, and a larger one that nearly always is."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        is_right = draw.random() < 0.5
        sureness = min(1.2, max(-1.0, (0.5 if is_right else -0.5) + draw.gauss(0, 0.4)))
        asked = draw.random() < 0.9 if larger else None
        made.append(Outcome(tokens(sureness, length), False, is_right, 1.0, asked, 3.0 if larger else None))
    return made

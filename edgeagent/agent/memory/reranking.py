"""A second score for the best memories, by late interaction: the question's words against a memory's, one by one. Pure.

The encoder's vectors of words see their sentence, and the best match of each (ColBERT's MaxSim, Khattab and Zaharia,
SIGIR 2020) tells what one vector for the whole text blurs. They are made when they are asked for: nothing is stored.
"""

import math
from collections.abc import Sequence
from functools import cache

from edgeagent.agent.memory import features
from edgeagent.agent.memory.scoring import Scorer, document
from edgeagent.core.memory import MemoryHit

NUM_RERANKED = 16
"""Memories that get a second score: each costs an embedding of its text."""
LEAST_WEIGHT = 0.02

NAMES = (*features.NAMES, "word_match", "telling_match")
"""The mean over the question's tokens of each one's best match; and the mean by how much each tells the candidates
apart: a token that all of them match tells nothing."""


@cache
def shipped() -> Scorer:
    """The weights that come with the program; `tools/learn_recall.py` made them."""
    second = document()["reranked"]
    return Scorer.of(second["weights"], second["offset"], NAMES)


def match_features(matches: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """For each candidate, from its best match for each token of the question (see `core.memory.WordMatcher`)."""
    if not matches or not matches[0]:
        return [(0.0, 0.0)] * len(matches)
    weights = [max(LEAST_WEIGHT, 1 - math.fsum(column) / len(matches)) for column in zip(*matches, strict=True)]
    total = math.fsum(weights)
    return [
        (math.fsum(row) / len(row), math.fsum(w * match for w, match in zip(weights, row, strict=True)) / total)
        for row in matches
    ]


def second_features(first: Sequence[Sequence[float]], matches: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """One tuple a candidate, in the order of NAMES."""
    return [(*row, *match) for row, match in zip(first, match_features(matches), strict=True)]


def reranked(
    found: Sequence[tuple[MemoryHit, Sequence[float]]], matches: Sequence[Sequence[float]], scorer: Scorer
) -> list[MemoryHit]:
    """The memories in the order of their second score, best first; equal ones stay as they were."""
    scores = scorer.scores(second_features([row for _, row in found], matches))
    scored = [hit.model_copy(update={"score": score}) for (hit, _), score in zip(found, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.score)

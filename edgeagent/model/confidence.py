"""How sure a model was of an answer: features of its tokens, and their logistic fit to a probability. Pure."""

import math
from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from edgeagent.core.generation import TokenStep

TOP = 5
"""Alternatives a token that the features look at."""
RIDGE = 1.0
"""Penalty on the squared weights of standardised features: a Gaussian prior of unit width."""
FOLDS = 5
BINS = 5
"""Of some hundred questions in more bins the error is mostly chance."""
STEPS, TOLERANCE = 50, 1e-9

Features = tuple[float, ...]
FEATURES = (
    "mean_logprob", "least_logprob", "first_logprob", "mean_margin", "least_margin", "mean_entropy", "log_tokens",
    "is_cut",
)  # fmt: skip


def features(steps: Sequence[TokenStep], *, is_cut: bool) -> Features | None:
    """What `FEATURES` names, in nats; None for no tokens, or for a token whose probabilities are unknown or not finite.

    `is_cut`: the token limit ended the answer. Entropy is that of the `TOP` most probable tokens, all others together
    as one more: a lower bound.
    """
    told = [(step.logprob, [a.logprob for a in step.top[:TOP]]) for step in steps]
    logprobs = [own for own, _ in told if own is not None and math.isfinite(own)]
    margins = [top[0] - top[1] for _, top in told if len(top) >= 2]
    entropies = [_entropy(top) for _, top in told]
    if not told or not len(logprobs) == len(margins) == len(told) or not all(map(math.isfinite, margins + entropies)):
        return None
    count = len(told)
    return (
        sum(logprobs) / count,
        min(logprobs),
        logprobs[0],
        sum(margins) / count,
        min(margins),
        sum(entropies) / count,
        math.log(count),
        float(is_cut),
    )


def _entropy(logprobs: Sequence[float]) -> float:
    chances = [math.exp(min(0.0, each)) for each in logprobs]
    rest = 1.0 - sum(chances)
    return -sum(p * math.log(p) for p in (*chances, rest) if p > 0)


class Logistic(BaseModel):
    """A fitted probability: standardise, weigh, squash."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    means: Features
    scales: Features
    weights: Features
    bias: float

    def probability(self, row: Features) -> float:
        """Strictly between 0 and 1. Raises ValueError for a row of another length."""
        columns = zip(row, self.means, self.scales, self.weights, strict=True)
        return _sigmoid(self.bias + sum(w * (x - m) / s for x, m, s, w in columns))


def _sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


def fit(rows: Sequence[Features], labels: Sequence[bool]) -> Logistic:
    """Ridge-penalised logistic regression by Newton's method, halving steps that do not help.

    Raises ValueError for no rows, for labels that are all alike, and for values that are not finite.
    """
    if len(set(labels)) < 2:
        raise ValueError("a confidence can only be fitted where some answers are right and some wrong")
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError("the features hold a value that is not finite")
    means = tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
    scales = tuple(_scale(column, mean) for column, mean in zip(zip(*rows, strict=True), means, strict=True))
    table = [[1.0, *((x - m) / s for x, m, s in zip(row, means, scales, strict=True))] for row in rows]
    bias, *weights = _newton(table, labels)
    return Logistic(means=means, scales=scales, weights=tuple(weights), bias=bias)


def _scale(column: Sequence[float], mean: float) -> float:
    """Standard deviation; 1 for a feature that never changes, which then weighs nothing."""
    deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / len(column))
    return deviation if deviation > 1e-9 * (1 + abs(mean)) else 1.0


def _newton(table: Sequence[Sequence[float]], labels: Sequence[bool]) -> list[float]:
    weights = [0.0] * len(table[0])
    loss = _loss(table, labels, weights)
    for _ in range(STEPS):
        step, size = _newton_step(table, labels, weights), 1.0
        while size > TOLERANCE:
            tried = [w - size * s for w, s in zip(weights, step, strict=True)]
            if (new := _loss(table, labels, tried)) <= loss:
                break
            size /= 2
        else:
            break
        gain, weights, loss = loss - new, tried, new
        if gain < TOLERANCE:
            break
    return weights


def _loss(table: Sequence[Sequence[float]], labels: Sequence[bool], weights: Sequence[float]) -> float:
    """Negative log-likelihood with the ridge; the first weight, the bias, is free."""
    scores = (sum(w * x for w, x in zip(weights, row, strict=True)) for row in table)
    likelihood = sum(_softplus(-score if label else score) for score, label in zip(scores, labels, strict=True))
    return likelihood + RIDGE / 2 * sum(w * w for w in weights[1:])


def _softplus(score: float) -> float:
    return max(score, 0.0) + math.log1p(math.exp(-abs(score)))


def _newton_step(table: Sequence[Sequence[float]], labels: Sequence[bool], weights: Sequence[float]) -> list[float]:
    size = len(weights)
    gradient = [0.0, *(RIDGE * w for w in weights[1:])]
    hessian = [[RIDGE * (i == j > 0) + 1e-9 * (i == j) for j in range(size)] for i in range(size)]
    for row, label in zip(table, labels, strict=True):
        chance = _sigmoid(sum(w * x for w, x in zip(weights, row, strict=True)))
        for i in range(size):
            gradient[i] += (chance - label) * row[i]
            for j in range(size):
                hessian[i][j] += chance * (1 - chance) * row[i] * row[j]
    return solve(hessian, gradient)


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """The solution of a small linear system, by elimination with pivots. Raises ValueError when there is none."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if rows[i][i] == 0:
            raise ValueError("the system has no single solution")
        for r in range(len(rows)):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def fold_of(labels: Sequence[bool], folds: int = FOLDS) -> list[int]:
    """The fold of each item: the right ones dealt out in turn, then the wrong ones, so that all folds are alike."""
    places = {True: 0, False: 0}
    dealt: list[int] = []
    for label in labels:
        dealt.append(places[label] % folds)
        places[label] += 1
    return dealt


def out_of_fold(rows: Sequence[Features], labels: Sequence[bool]) -> list[float]:
    """The probability of each row by a fit that never saw it. Raises ValueError as `fit`."""
    folds = fold_of(labels)
    found = [0.0] * len(rows)
    for fold in range(FOLDS):
        rest = [i for i, own in enumerate(folds) if own != fold]
        fitted = fit([rows[i] for i in rest], [labels[i] for i in rest])
        for i in (i for i, own in enumerate(folds) if own == fold):
            found[i] = fitted.probability(rows[i])
    return found


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The chance that a right answer scores higher than a wrong one; equal scores count half. Raises ValueError."""
    right = [score for score, label in zip(scores, labels, strict=True) if label]
    wrong = [score for score, label in zip(scores, labels, strict=True) if not label]
    if not right or not wrong:
        raise ValueError("there must be right and wrong answers")
    return sum((r > w) + (r == w) / 2 for r in right for w in wrong) / (len(right) * len(wrong))


def calibration_error(scores: Sequence[float], labels: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error over bins of equal counts (Naeini et al., AAAI 2015, with equal-mass bins)."""
    ordered = sorted(zip(scores, labels, strict=True))
    edges = [round(i * len(ordered) / bins) for i in range(bins + 1)]
    groups = [ordered[a:b] for a, b in pairwise(edges) if b > a]
    gaps = (abs(sum(score for score, _ in group) - sum(label for _, label in group)) for group in groups)
    return sum(gaps) / len(ordered)

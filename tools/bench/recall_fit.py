"""Learns the weights of recall's linear score, and counts what it finds.

Listwise softmax regression (ListNet's top-one form, Cao et al., ICML 2007) by damped Newton steps over standardised
features: for each question the evidence shares the probability among the candidates. A logistic fit of the result then
makes scores mean "how likely is this evidence". Deterministic: no draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from recall_data import Case

from edgeagent.agent.memory import reranking
from edgeagent.agent.memory.features import NAMES
from edgeagent.agent.memory.scoring import Scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RIDGE = 1e-2
"""Weight decay a question, on standardised features."""
MAX_STEPS = 40


@dataclass(frozen=True, slots=True)
class Fit:
    weights: dict[str, float]
    offset: float

    def scorer(self, names: Sequence[str] = NAMES) -> Scorer:
        return Scorer.of(self.weights, self.offset, names)


def fit(cases: Sequence[Case], ridge: float = RIDGE, names: Sequence[str] = NAMES) -> Fit:
    """Weights by feature name; features that never vary get none."""
    useful = [case for case in cases if any(case.is_evidence)]
    raw = np.concatenate([np.array(case.features, dtype=np.float64) for case in useful])
    mean, scale = raw.mean(axis=0), raw.std(axis=0)
    kept = np.flatnonzero(scale > 1e-9)
    x = (raw[:, kept] - mean[kept]) / scale[kept]
    weights = _listwise(x, useful, ridge) / scale[kept]
    labels = np.concatenate([np.array(case.is_evidence, dtype=np.float64) for case in useful])
    slope, offset = _logistic(raw[:, kept] @ weights, labels)
    return Fit({names[int(i)]: float(slope * w) for i, w in zip(kept, weights, strict=True)}, float(offset))


def _listwise(x: "Floats", cases: Sequence[Case], ridge: float) -> "Floats":
    lengths = np.array([len(case.features) for case in cases])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    target = np.concatenate([np.array(c.is_evidence, dtype=np.float64) / sum(c.is_evidence) for c in cases])
    weights = np.zeros(x.shape[1])
    decay = ridge * len(cases)

    def loss(w: "Floats") -> tuple[float, "Floats"]:
        z = x @ w
        top = np.maximum.reduceat(z, starts)
        e = np.exp(z - np.repeat(top, lengths))
        sums = np.add.reduceat(e, starts)
        value = (np.log(sums) + top).sum() - target @ z + 0.5 * decay * w @ w
        return float(value), e / np.repeat(sums, lengths)

    value, p = loss(weights)
    for _ in range(MAX_STEPS):
        means = np.add.reduceat(x * p[:, None], starts, axis=0)
        gradient = decay * weights + means.sum(axis=0) - x.T @ target
        hessian = decay * np.eye(len(weights)) + (x * p[:, None]).T @ x - means.T @ means
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (next_ := loss(weights - size * step))[0] > value and size > 1e-3:
            size /= 2
        gain, weights, (value, p) = value - next_[0], weights - size * step, next_
        if gain < 1e-6 * len(cases):
            break
    return weights


def _logistic(z: "Floats", labels: "Floats") -> tuple[float, float]:
    """Platt's scaling: slope and offset of the likelihood, by Newton steps of at most 1 over standardised scores."""
    middle, scale = z.mean(), z.std()
    x = np.stack([(z - middle) / scale, np.ones_like(z)], axis=1)
    w = np.array([0.0, np.log(labels.mean() / (1 - labels.mean()))])
    for _ in range(MAX_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2), x.T @ (p - labels))
        w -= step / max(1.0, float(np.linalg.norm(step)))
    return float(w[0] / scale), float(w[1] - w[0] * middle / scale)


def recall_at(case: Case, scores: Sequence[float], k: int) -> float:
    """The share of the evidence among the best k."""
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    share: float = sum(case.is_evidence[i] for i in best) / case.num_evidence
    return share


Judged = list[tuple[Case, list[float]]]


def leave_one_out(by_conversation: Mapping[str, Sequence[Case]], *, reranks: bool = False) -> Judged:
    """Every case with its candidates' scores, by weights learned on the other conversations.

    With `reranks` the cases have the best candidates alone, with their second scores.
    """
    judged: Judged = []
    for name, held_out in by_conversation.items():
        others = [case for other, cases in by_conversation.items() if other != name for case in cases]
        scorer = fit(others).scorer()
        asked: Sequence[Case] = held_out
        if reranks:
            asked = [second(case, scorer) for case in held_out]
            scorer = fit_second(others, scorer).scorer(reranking.NAMES)
        judged += [(case, scorer.scores(case.features)) for case in asked]
    return judged


def fit_second(cases: Sequence[Case], first: Scorer) -> Fit:
    return fit([second(case, first) for case in cases], names=reranking.NAMES)


def second(case: Case, first: Scorer) -> Case:
    """The best candidates by the first score, with what the second one weighs."""
    scores = first.scores(case.features)
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: reranking.NUM_RERANKED]
    features = reranking.second_features([case.features[i] for i in best], [case.matches[i] for i in best])
    return replace(case, features=tuple(features), is_evidence=tuple(case.is_evidence[i] for i in best), matches=())

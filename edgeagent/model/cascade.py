"""A cascade of two models: when the smaller one's answer stands, and when the larger one is asked. Pure.

The confidence of an answer is the probability that it is right, fitted on questions with known answers; where the
threshold lies depends on what is asked of the cascade. After FrugalGPT (arXiv:2305.05176), with the scorer a logistic
fit of the small model's own token probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from edgeagent.core.cards import Sha256
from edgeagent.core.errors import RequestError
from edgeagent.core.generation import TokenStep
from edgeagent.model.confidence import Features, Logistic, auroc, calibration_error, features, fit, out_of_fold

EARLY_TOKENS = 8
"""Tokens of a longer answer after which it may be decided early."""
LEAST_QUESTIONS = 40
LEAST_OF_A_KIND = 8
"""Right and wrong answers each, below which a fit says nothing: two of each in every fold that is left out."""
EARLY_AGREEMENT = 0.95
"""Share of early decisions that must be what the whole answer would have led to."""
LEAST_EARLY = 10
STANDING_FLOOR = 0.9
"""What is asked of the answers that stand when nobody says more."""


class Fitted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Early(Fitted):
    """Decides on the first `EARLY_TOKENS` of a longer answer: above `accept` it stands, below `reject` it does not."""

    confidence: Logistic
    accept: float | None = None
    reject: float | None = None


class Figures(Fitted):
    """What the calibration questions said; confidences out of fold, and no early decisions. Times are means."""

    questions: int
    accuracy: float
    """Of the small model."""
    auroc: float
    calibration_error: float
    share_asked: float
    standing_accuracy: float | None = None
    """Of the answers that stand."""
    small_s: float
    larger_accuracy: float | None = None
    larger_s: float | None = None
    cascade_accuracy: float | None = None


class Calibration(Fitted):
    """One variant's confidence and threshold, and where they come from. `larger`: whom they were chosen against."""

    variant: str
    sha256: Sha256
    larger: str = ""
    confidence: Logistic
    threshold: float = Field(ge=0, le=1)
    early: Early | None = None
    target: str
    figures: Figures
    file: str
    file_sha256: Sha256
    max_tokens: int
    engine: str
    date: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question's answers: the small model's tokens with their log-probabilities, and who was right."""

    tokens: Sequence[TokenStep]
    is_cut: bool
    is_right: bool
    small_s: float
    larger_is_right: bool | None = None
    larger_s: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: a share of right answers (`floor`), or at most this share of questions passed on (`budget`).

    With a larger model the floor is that of all answers, its own accuracy when none is given; without, it is that of
    the answers that stand.
    """

    floor: float | None = None
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """What calibrating finds."""

    confidence: Logistic
    threshold: float
    early: Early | None
    target: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Point:
    """A threshold, and what it makes of the questions. `accuracy` is None where no larger model was asked."""

    threshold: float
    share_asked: float
    standing_accuracy: float | None
    accuracy: float | None


def confidence_of(fitted: Logistic, tokens: Sequence[TokenStep], *, is_cut: bool) -> float:
    """The chance that this answer is right; 0 for one without tokens or with probabilities that are not known."""
    row = features(tokens, is_cut=is_cut)
    return 0.0 if row is None else fitted.probability(row)


def point(threshold: float, confidences: Sequence[float], outcomes: Sequence[Outcome]) -> Point:
    """Answers of at least this confidence stand."""
    standing = [o.is_right for c, o in zip(confidences, outcomes, strict=True) if c >= threshold]
    passed = [o.larger_is_right for c, o in zip(confidences, outcomes, strict=True) if c < threshold]
    accuracy = None if outcomes[0].larger_is_right is None else (sum(standing) + sum(map(bool, passed))) / len(outcomes)
    right = sum(standing) / len(standing) if standing else None
    return Point(threshold, len(passed) / len(outcomes), right, accuracy)


def points(confidences: Sequence[float], outcomes: Sequence[Outcome]) -> list[Point]:
    """Every threshold that makes a difference, from 0, where all stand, to 1, where none does."""
    between = sorted(set(confidences))
    thresholds = [0.0, *((a + b) / 2 for a, b in pairwise(between)), 1.0]
    return [point(threshold, confidences, outcomes) for threshold in thresholds]


def choose(found: Sequence[Point], target: Target, larger_accuracy: float | None) -> tuple[Point, str]:
    """The cheapest point that keeps the floor, or the dearest within the budget; and the target in words.

    Raises RequestError for a floor that no point keeps.
    """
    if target.budget is not None:
        within = [p for p in found if p.share_asked <= target.budget]
        return max(within, key=lambda p: p.share_asked), f"at most {target.budget:.0%} of questions passed on"
    if larger_accuracy is None:
        floor = STANDING_FLOOR if target.floor is None else target.floor
        words = f"{floor:.1%} of the answers that stand are right"
        kept = [p for p in found if p.standing_accuracy is not None and p.standing_accuracy >= floor]
    else:
        floor = larger_accuracy if target.floor is None else target.floor
        words = f"{floor:.1%} of all answers are right"
        kept = [p for p in found if p.accuracy is not None and p.accuracy >= floor]
    if not kept:
        raise RequestError(f"no threshold makes that {words}; ask for a lower floor, or for a budget")
    return min(kept, key=lambda p: p.share_asked), words


def calibrate(outcomes: Sequence[Outcome], target: Target) -> Fit:
    """Fits the confidence and chooses the threshold on confidences out of fold.

    Raises RequestError for outcomes that nothing can be learned from, and as `choose`.
    """
    labels = _checked(outcomes)
    rows = [features(o.tokens, is_cut=o.is_cut) for o in outcomes]
    fitted, confidences = _fit(rows, labels)
    larger = _share([bool(o.larger_is_right) for o in outcomes]) if outcomes[0].larger_is_right is not None else None
    best, words = choose(points(confidences, outcomes), target, larger)
    figures = Figures(
        questions=len(outcomes),
        accuracy=_share(labels),
        auroc=auroc(confidences, labels),
        calibration_error=calibration_error(confidences, labels),
        share_asked=best.share_asked,
        standing_accuracy=best.standing_accuracy,
        small_s=sum(o.small_s for o in outcomes) / len(outcomes),
        larger_accuracy=larger,
        larger_s=None if larger is None else sum(o.larger_s or 0.0 for o in outcomes) / len(outcomes),
        cascade_accuracy=best.accuracy,
    )
    stands = [c >= best.threshold for c in confidences]
    return Fit(fitted, best.threshold, _early(outcomes, labels, stands), words, figures)


def _checked(outcomes: Sequence[Outcome]) -> list[bool]:
    """Whose answers are right. Raises RequestError when there is too little of anything."""
    labels = [o.is_right for o in outcomes]
    right, wrong = sum(labels), len(labels) - sum(labels)
    if len(labels) < LEAST_QUESTIONS:
        raise RequestError(f"{len(labels)} questions are too few to calibrate on; ask {LEAST_QUESTIONS} or more")
    if min(right, wrong) < LEAST_OF_A_KIND:
        what = f"{right} answers are right and {wrong} wrong"
        raise RequestError(f"{what}, at least {LEAST_OF_A_KIND} of each are needed; ask other questions")
    if len({o.larger_is_right is None for o in outcomes}) > 1:
        raise RequestError("the larger model was asked some of the questions only; ask it all or none")
    return labels


def _fit(rows: Sequence[Features | None], labels: Sequence[bool]) -> tuple[Logistic, list[float]]:
    """The fit on all, and everyone's confidence by a fit without him; 0 where there is nothing to judge by."""
    known = [i for i, row in enumerate(rows) if row is not None]
    table = [row for row in rows if row is not None]
    told = [labels[i] for i in known]
    try:
        fitted, found = fit(table, told), out_of_fold(table, told)
    except ValueError as error:
        raise RequestError(f"{error}; ask other questions") from None
    confidences = [0.0] * len(rows)
    for i, value in zip(known, found, strict=True):
        confidences[i] = value
    return fitted, confidences


def _early(outcomes: Sequence[Outcome], labels: Sequence[bool], stands: Sequence[bool]) -> Early | None:
    """The early rule, where enough answers are long enough to learn one; `stands` is what they led to as a whole."""
    long = [i for i, o in enumerate(outcomes) if len(o.tokens) > EARLY_TOKENS]
    rows = {i: features(outcomes[i].tokens[:EARLY_TOKENS], is_cut=False) for i in long}
    known = [i for i in long if rows[i] is not None]
    told = [labels[i] for i in known]
    if min(sum(told), len(told) - sum(told)) < LEAST_OF_A_KIND:
        return None
    fitted, scores = _fit([rows[i] for i in known], told)
    ranked = sorted(zip(scores, (stands[i] for i in known), strict=True), reverse=True)
    accept = _bound(ranked)
    reject = _bound([(score, not stood) for score, stood in reversed(ranked)])
    if accept is not None and reject is not None and accept <= reject:
        accept = reject = (accept + reject) / 2  # both hold on either side of here
    return Early(confidence=fitted, accept=accept, reject=reject)


def _bound(ranked: Sequence[tuple[float, bool]]) -> float | None:
    """The score from the front up to which nearly all agree, and up to any before it."""
    agreed, bound = 0, None
    for count, (score, agrees) in enumerate(ranked, 1):
        agreed += agrees
        if count >= LEAST_EARLY:
            if agreed < EARLY_AGREEMENT * count:
                break
            bound = score
    return bound


def _share(labels: Sequence[bool]) -> float:
    return sum(labels) / len(labels)

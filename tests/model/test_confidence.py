"""The confidence: finite, ordered as its evidence, fitted where there is something to fit, refused where not."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeagent.core.generation import Alternative, TokenStep
from edgeagent.model.confidence import (
    FEATURES,
    Logistic,
    auroc,
    calibration_error,
    features,
    fit,
    fold_of,
    out_of_fold,
    solve,
)

finite = st.floats(-30, 0)


def step(position: int, *logprobs: float) -> TokenStep:
    top = tuple(Alternative(token, b"x", value) for token, value in enumerate(logprobs))
    return TokenStep(position, 0, b"x", logprob=logprobs[0], top=top)


def noisy(count: int, seed: int) -> tuple[list[tuple[float, ...]], list[bool]]:
    """Rows of which only the first column says something of the label."""
    draw = random.Random(seed)
    labels = [draw.random() < 0.5 for _ in range(count)]
    return [(label + draw.gauss(0, 1), draw.gauss(0, 1), 3.0) for label in labels], labels


def test_features_are_what_their_names_say() -> None:
    half, tenth = math.log(0.5), math.log(0.1)
    row = features([step(0, half, tenth), step(1, 2 * half, tenth)], is_cut=True)
    assert row is not None
    named = dict(zip(FEATURES, row, strict=True))
    assert named["mean_logprob"] == pytest.approx(1.5 * half)
    assert named["least_logprob"] == pytest.approx(2 * half)
    assert named["first_logprob"] == pytest.approx(half)
    assert named["least_margin"] == pytest.approx(2 * half - tenth)
    assert named["log_tokens"] == pytest.approx(math.log(2))
    assert named["is_cut"] == 1


@given(st.integers(2, 5), st.integers(1, 12))
def test_entropy_of_equal_chances_is_the_logarithm_of_their_number(num_alternatives: int, num_tokens: int) -> None:
    equal = [-math.log(num_alternatives)] * num_alternatives
    row = features([step(i, *equal) for i in range(num_tokens)], is_cut=False)
    assert row is not None
    assert row[FEATURES.index("mean_entropy")] == pytest.approx(math.log(num_alternatives), abs=1e-6)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_features_of_a_token_that_is_not_finite_are_unknown(bad: float, place: int) -> None:
    told = [-0.5, -1.0]
    told[place] = bad
    assert features([step(0, -0.1, -3.0), step(1, *told)], is_cut=False) is None


def test_features_of_no_tokens_or_of_tokens_without_probabilities_are_unknown() -> None:
    assert features([], is_cut=False) is None
    assert features([TokenStep(0, 1, b"x")], is_cut=False) is None
    assert features([step(0, -0.1)], is_cut=False) is None


@given(st.integers(0, 50))
def test_fit_finds_what_matters(seed: int) -> None:
    rows, labels = noisy(200, seed)
    fitted = fit(rows, labels)
    first, other, constant = fitted.weights
    assert first > abs(other)
    assert constant == 0
    assert fitted.probability((3.0, 0.0, 3.0)) > fitted.probability((-3.0, 0.0, 3.0))
    mean = sum(fitted.probability(row) for row in rows) / len(rows)
    assert mean == pytest.approx(
        sum(labels) / len(labels), abs=1e-3
    )  # the bias is free: the fit is calibrated on average


def test_fit_of_separable_labels_stays_finite() -> None:
    fitted = fit([(float(i), 0.0) for i in range(20)], [i >= 10 for i in range(20)])
    assert 0 < fitted.probability((-1e9, 0.0)) < fitted.probability((1e9, 0.0)) < 1


@pytest.mark.parametrize("labels", [[True] * 4, [False] * 4])
def test_fit_of_labels_all_alike_is_refused(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match="some answers are right and some wrong"):
        fit([(1.0,), (2.0,), (3.0,), (4.0,)], labels)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_fit_and_its_record_refuse_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        fit([(1.0,), (bad,)], [True, False])
    with pytest.raises(ValidationError):
        Logistic(means=(0.0,), scales=(1.0,), weights=(bad,), bias=0.0)


@given(st.lists(st.booleans(), max_size=60))
def test_folds_have_equal_parts_of_right_and_wrong(labels: list[bool]) -> None:
    folds = fold_of(labels)
    for label in (True, False):
        sizes = [
            sum(1 for f, own in zip(folds, labels, strict=True) if f == fold and own is label) for fold in range(5)
        ]
        assert max(sizes) - min(sizes) <= 1


def test_out_of_fold_does_not_see_its_own_label() -> None:
    rows, labels = noisy(60, 1)
    found = out_of_fold(rows, labels)
    place = next(i for i, label in enumerate(labels) if label)
    fold = fold_of(labels)[place]
    rest = [i for i, own in enumerate(fold_of(labels)) if own != fold]
    assert found[place] == fit([rows[i] for i in rest], [labels[i] for i in rest]).probability(rows[place])


@given(st.lists(st.tuples(finite, st.booleans()), min_size=2, max_size=40))
def test_auroc_turns_round_with_the_scores(pairs: list[tuple[float, bool]]) -> None:
    scores, labels = [score for score, _ in pairs], [label for _, label in pairs]
    if len(set(labels)) < 2:
        with pytest.raises(ValueError, match="right and wrong"):
            auroc(scores, labels)
        return
    assert auroc(scores, labels) + auroc([-score for score in scores], labels) == pytest.approx(1)


def test_calibration_error_of_honest_scores_is_none_and_of_boasts_all() -> None:
    assert calibration_error([0.25] * 4, [True, False, False, False], bins=1) == pytest.approx(0)
    assert calibration_error([1.0] * 4, [False] * 4, bins=2) == pytest.approx(1)


def test_solve_solves_and_refuses_what_has_no_single_solution() -> None:
    assert solve([[0, 2], [4, 1]], [2, 9]) == pytest.approx([2, 1])
    with pytest.raises(ValueError, match="no single solution"):
        solve([[1, 1], [1, 1]], [1, 2])

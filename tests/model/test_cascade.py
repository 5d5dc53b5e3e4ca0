"""Thresholds: monotone, within their target, clear about data that teach nothing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import RequestError
from edgeagent.model.cascade import Outcome, Target, calibrate, choose, point, points
from tests.model.answers import outcomes

judged = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=60)


def split(cases: list[tuple[float, bool, bool]]) -> tuple[list[float], list[Outcome]]:
    return [c for c, _, _ in cases], [Outcome((), False, small, 1.0, larger, 2.0) for _, small, larger in cases]


@given(judged, st.floats(0, 1), st.floats(0, 1))
def test_higher_threshold_never_asks_less(cases: list[tuple[float, bool, bool]], a: float, b: float) -> None:
    confidences, found = split(cases)
    low, high = (point(t, confidences, found).share_asked for t in sorted((a, b)))
    assert low <= high


@given(judged)
def test_points_go_from_the_small_model_alone_to_the_larger_alone(cases: list[tuple[float, bool, bool]]) -> None:
    confidences, found = split([(min(c, 0.999), small, larger) for c, small, larger in cases])
    first, last = points(confidences, found)[0], points(confidences, found)[-1]
    assert (first.share_asked, last.share_asked) == (0, 1)
    assert first.accuracy == pytest.approx(sum(o.is_right for o in found) / len(found))
    assert last.accuracy == pytest.approx(sum(bool(o.larger_is_right) for o in found) / len(found))


@given(judged, st.floats(0, 1))
def test_budget_is_never_passed(cases: list[tuple[float, bool, bool]], budget: float) -> None:
    best, _ = choose(points(*split(cases)), Target(budget=budget), 0.5)
    assert best.share_asked <= budget


@given(judged, st.floats(0, 1))
def test_floor_is_kept_by_the_cheapest_point_or_refused(cases: list[tuple[float, bool, bool]], floor: float) -> None:
    found = points(*split(cases))
    kept = [p for p in found if p.accuracy is not None and p.accuracy >= floor]
    if not kept:
        with pytest.raises(RequestError, match="lower floor"):
            choose(found, Target(floor=floor), 0.5)
        return
    best, _ = choose(found, Target(floor=floor), 0.5)
    assert best.accuracy is not None
    assert best.accuracy >= floor
    assert best.share_asked == min(p.share_asked for p in kept)


def test_calibrated_cascade_is_as_right_as_the_larger_model_with_fewer_questions_passed_on() -> None:
    fitted = calibrate(outcomes(), Target())
    figures = fitted.figures
    assert figures.auroc > 0.8
    assert figures.cascade_accuracy is not None
    assert figures.larger_accuracy is not None
    assert figures.cascade_accuracy >= figures.larger_accuracy
    assert 0 < figures.share_asked < 0.7


def test_calibration_without_a_larger_model_keeps_the_floor_among_answers_that_stand() -> None:
    figures = calibrate(outcomes(larger=False), Target(floor=0.8)).figures
    assert figures.larger_accuracy is None
    assert figures.cascade_accuracy is None
    assert figures.standing_accuracy is not None
    assert figures.standing_accuracy >= 0.8


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "0 questions are too few"),
        (outcomes(39), "39 questions are too few"),
        ([replace(o, is_right=True) for o in outcomes(50)], "50 answers are right and 0 wrong"),
        ([replace(o, is_right=False) for o in outcomes(50)], "0 answers are right and 50 wrong"),
        ([replace(o, tokens=()) for o in outcomes(50)], "only be fitted"),
        ([*outcomes(50), *outcomes(2, larger=False)], "some of the questions only"),
    ],
)
def test_outcomes_that_teach_nothing_are_refused(made: list[Outcome], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        calibrate(made, Target())

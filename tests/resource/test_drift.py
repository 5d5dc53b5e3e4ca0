"""Drift: a steady change is noticed, chance and unfit samples are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.resource.drift import MIN_SAMPLES, Drift, Sample


def answer(factor: float, *, prompt: int = 500, tokens: int = 40, cached: bool = False) -> Sample:
    return Sample(prompt, tokens, None if cached else 2.0 * factor, 2.0, 0.01 * factor, 0.01)


def after(samples: list[Sample]) -> Drift:
    drift = Drift()
    for sample in samples:
        drift = drift.with_sample(sample)
    return drift


@pytest.mark.parametrize("factor", [0.6, 1.5, 3.0])
def test_steady_change_is_noticed_and_measured(factor: float) -> None:
    drift = after([answer(factor)] * MIN_SAMPLES)
    assert drift.is_drifted
    assert drift.factor == pytest.approx(factor)


def test_one_slow_answer_among_usual_ones_is_chance() -> None:
    assert not after([answer(1.0)] * 5 + [answer(2.5)] + [answer(1.0)] * 2).is_drifted


def test_first_answers_say_too_little() -> None:
    assert not after([answer(5.0, cached=True)] * (MIN_SAMPLES - 1)).is_drifted


def test_short_or_cached_answers_change_nothing() -> None:
    assert after([answer(9.0, prompt=10, tokens=3)] * 50) == Drift()
    assert after([answer(9.0, tokens=3, cached=True)] * 50) == Drift()


@given(st.lists(st.floats(0.85, 1.15), max_size=60))
def test_small_errors_of_prediction_never_count_as_drift(factors: list[float]) -> None:
    assert not after([answer(factor) for factor in factors]).is_drifted

"""Predictions follow what answers took: within bounds, and not for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.resource.corrections import HALF_LIFE_S, LIMIT, Correction, Factors, Sample
from edgeagent.resource.cost import Price

ratios = st.floats(1e-3, 1e3)


def learned(ratio: float, count: int) -> Correction:
    found = Correction()
    for _ in range(count):
        found = found.with_sample(Sample(ratio, ratio), 0.0)
    return found


@given(st.lists(st.tuples(ratios, st.floats(0, 100)), max_size=30))
def test_factors_stay_within_their_bounds_whatever_came(samples: list[tuple[float, float]]) -> None:
    found, now_s = Correction(), 0.0
    for ratio, pause_s in samples:
        now_s += pause_s
        found = found.with_sample(Sample(ratio, None), now_s)
    factors = found.factors(now_s)
    assert 1 / LIMIT <= factors.first <= LIMIT
    assert factors.rest == 1.0


@given(st.floats(1 / LIMIT, LIMIT))
def test_error_that_lasts_is_corrected_and_one_answer_is_not_believed_whole(ratio: float) -> None:
    one, many = learned(ratio, 1).factors(0.0).first, learned(ratio, 40).factors(0.0).first
    assert one == pytest.approx(ratio**0.5)
    assert many == pytest.approx(ratio**0.8)


def test_error_that_ends_is_unlearned() -> None:
    found = learned(2.0, 20)
    for _ in range(20):
        found = found.with_sample(Sample(1.0, 1.0), 0.0)
    assert found.factors(0.0).first == pytest.approx(1.0, abs=0.01)


def test_plan_that_nobody_runs_any_more_gets_another_chance() -> None:
    found = learned(3.0, 20)
    factors = [found.factors(i * HALF_LIFE_S).first for i in range(8)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] > 2.0
    assert factors[-1] < 1.05


def test_sample_is_of_the_bare_prediction() -> None:
    sample = Sample.of((3.0, 0.2), (2.0, 0.1), Factors(first=2.0, rest=0.5), 32)
    assert (sample.ttft_ratio, sample.tpot_ratio) == (3.0, 1.0)
    assert Sample.of((3.0, 0.2), (2.0, 0.1), Factors(), 4).tpot_ratio is None


def test_price_is_corrected_in_its_parts() -> None:
    price = Factors(first=2.0, rest=0.5).applied(Price(1.0, 0.1, 3.0, 7, 8))
    assert price == Price(2.0, 0.05, 3.0, 7, 8)

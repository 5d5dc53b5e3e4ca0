"""Which positions of a prompt are dropped: exactly so many, never the protected ones, the same ones every time."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.generation import Span
from edgeagent.execution.pruning import SINKS, WINDOW, num_droppable, weakest

lengths = st.integers(0, 200)
shares = st.floats(0.01, 0.9)
protections = st.lists(st.tuples(st.integers(-5, 420), st.integers(-5, 420)), max_size=3)
draws = st.randoms(use_true_random=False)


def positions(spans: list[Span]) -> list[int]:
    return [i for begin, end in spans for i in range(begin, end)]


@given(lengths, shares, protections, draws)
def test_exactly_as_many_go_as_said_and_nothing_protected(
    num_prompt: int, share: float, protected: list[Span], draw: Random
) -> None:
    scores = [draw.choice([0.0, 0.5, draw.random()]) for _ in range(num_prompt)]
    count = num_droppable(num_prompt, share, protected)
    spans = weakest(scores, count, protected)
    gone = positions(spans)
    assert len(gone) == len(set(gone)) == count <= num_prompt * share
    assert gone == sorted(gone)
    assert all(a[1] < b[0] for a, b in pairwise(spans))
    assert not any(i < SINKS or i >= num_prompt - WINDOW for i in gone)
    assert not any(begin <= i < end for i in gone for begin, end in protected)
    assert weakest(list(scores), count, protected) == spans
    if count < int(num_prompt * share):
        with pytest.raises(ValueError, match="may go"):
            weakest(scores, count + 1, protected)


@given(st.integers(120, 400), shares, st.data())
def test_what_stands_beside_the_best_stays(num_prompt: int, share: float, data: st.DataObject) -> None:
    best = data.draw(st.integers(SINKS, num_prompt - WINDOW - 1))
    scores = [float(i == best) for i in range(num_prompt)]
    gone = positions(weakest(scores, num_droppable(num_prompt, min(share, 0.5), ()), ()))
    assert not any(abs(i - best) <= 4 for i in gone)


def test_the_least_attended_go_first_and_among_equals_the_oldest() -> None:
    scores = [1.0] * 200
    scores[60:100] = [0.1] * 40
    assert weakest(scores, 24) == [(68, 92)]  # those beside attended ones count as much as these
    assert weakest(scores, 30) == [(4, 10), (68, 92)]

"""The digit patterns, read as the regular expressions they also are."""

import re

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.digits import digits_between


def accepts(gbnf: str, text: str) -> bool:
    return re.fullmatch(gbnf.replace(" | ", "|").replace(" ", "").replace('"', ""), text) is not None


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2 * 10**6))
def test_digits_between_accepts_a_number_exactly_when_it_lies_between(one: int, other: int, probe: int) -> None:
    low, high = sorted((one, other))

    assert accepts(digits_between(low, high), str(probe)) == (low <= probe <= high)


@given(st.integers(0, 300), st.integers(0, 300))
def test_digits_between_small_bounds_checked_in_full(one: int, other: int) -> None:
    low, high = sorted((one, other))
    pattern = digits_between(low, high)

    assert [n for n in range(1200) if accepts(pattern, str(n))] == list(range(low, high + 1))
    assert not accepts(pattern, f"0{high}")

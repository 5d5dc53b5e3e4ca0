"""Time expressions, seen from Wednesday 17 May 2023, noon."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.times import nearness, spans

NOW = datetime(2023, 5, 17, 12, tzinfo=UTC).timestamp()


def days(question: str, now: float = NOW) -> list[tuple[str, str]]:
    return [
        (datetime.fromtimestamp(start, UTC).date().isoformat(), datetime.fromtimestamp(end, UTC).date().isoformat())
        for start, end in spans(question, now)
    ]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What did I do yesterday?", [("2023-05-16", "2023-05-17")]),
        ("What is on today?", [("2023-05-17", "2023-05-18")]),
        ("Where was I on 3 March 2022?", [("2022-03-03", "2022-03-04")]),
        ("And on March 3rd, 2022?", [("2022-03-03", "2022-03-04")]),
        ("Who came in December?", [("2022-12-01", "2023-01-01")]),
        ("Who came in May?", [("2023-05-01", "2023-06-01")]),
        ("May I go?", []),
        ("What happened in 2021?", [("2021-01-01", "2022-01-01")]),
        ("What was on 2023-02-28?", [("2023-02-28", "2023-03-01")]),
        ("And on 31 February?", []),
        ("And on 31 February 2023?", [("2023-01-01", "2024-01-01")]),
        ("What did I buy two weeks ago?", [("2023-04-30", "2023-05-07")]),
        ("And 3 days ago?", [("2023-05-14", "2023-05-15")]),
        ("Last Friday?", [("2023-05-12", "2023-05-13")]),
        ("Last Wednesday?", [("2023-05-10", "2023-05-11")]),
        ("last week", [("2023-05-03", "2023-05-16")]),
        ("this month", [("2023-04-18", "2023-05-18")]),
        ("last weekend", [("2023-05-13", "2023-05-15")]),
        ("a while ago", []),
        ("Where is my key?", []),
    ],
)
def test_expression_becomes_a_span(question: str, expected: list[tuple[str, str]]) -> None:
    assert days(question) == expected


def test_nearness_is_one_inside_and_fades_within_a_month_behind() -> None:
    [span] = spans("in March 2023", NOW)
    at = [datetime(2023, m, d, tzinfo=UTC).timestamp() for m, d in ((2, 28), (3, 1), (3, 31), (4, 1), (4, 16), (5, 2))]
    assert [round(nearness(x, [span]), 2) for x in at] == [0.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    assert nearness(at[0], []) == 0.0


@given(st.text(max_size=100), st.floats(0, 4e9))
def test_any_question_gives_spans_that_end_after_they_begin(question: str, now: float) -> None:
    assert all(start < end for start, end in spans(question, now))


@given(
    st.sampled_from(["last year", "9 years ago", "999 years ago", "999 months ago", "1 January 1900"]),
    st.floats(0, 4e9),
)
def test_far_expressions_never_fail(question: str, now: float) -> None:
    assert len(spans(question, now)) == 1

"""Fusion and full-text expressions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.ranking import fuse, match_expression

ranking = st.lists(st.integers(1, 60), unique=True, max_size=40)


def test_fuse_first_everywhere_scores_one() -> None:
    assert fuse([[7, 3], [7, 5]])[0] == (7, 1.0)


def test_fuse_two_middling_ranks_beat_one_first() -> None:
    assert fuse([[1, 2, 9], [3, 4, 9]])[0][0] == 9


@given(st.tuples(ranking, ranking))
def test_fuse_keeps_every_row_once_with_falling_scores_in_0_to_1(rankings: tuple[list[int], list[int]]) -> None:
    fused = fuse(rankings)
    scores = [score for _, score in fused]
    assert sorted(row for row, _ in fused) == sorted({*rankings[0], *rankings[1]})
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


@pytest.mark.parametrize(
    ("question", "expression"),
    [
        ("What is the name of my dog?", '"name" OR "dog"'),
        ("Who are you?", '"who" OR "are" OR "you"'),
        ('dog "AND" dog NEAR(x)', '"dog" OR "near" OR "x"'),
        ("?!", None),
    ],
)
def test_match_expression_quotes_the_telling_words(question: str, expression: str | None) -> None:
    assert match_expression(question) == expression


def test_match_expression_of_a_long_question_is_bounded() -> None:
    expression = match_expression(" ".join(f"word{i}" for i in range(5000)))
    assert expression is not None
    assert expression.count(" OR ") == 63

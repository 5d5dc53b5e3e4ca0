import pytest

from edgeagent.agent.arithmetic_text import expressions, spoken_to_digits


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("What is 17 * 23?", "17 * 23"),
        ("How much is 15% of 240?", "15 / 100 * 240"),
        ("What's the square root of 625?", "sqrt(625)"),
        ("twenty-one plus one hundred and five", "21 + 105"),
        ("Add 455 and 1,200 for me", "455 + 1200"),
        ("Subtract 3 from 10", "10 - 3"),
        ("2 to the power of 10?", "2 ** 10"),
        ("what is 5 x 6 = ?", "5 * 6"),
        ("(1 + 2) * 3.", "(1 + 2) * 3"),
        ("what is 24/7", "24/7"),
        ("the larger: max(3, 7) + 1", "max(3, 7) + 1"),
    ],
)
def test_expressions_in_a_sentence_are_what_the_calculator_reads(text: str, expression: str) -> None:
    assert expressions(text) == (expression,)


@pytest.mark.parametrize(
    "text",
    [
        "I have 3, 4 and 5",
        "on 2024-05-01",
        "(3+4",
        "Hello - world",
        "a+b",
        "World War 2",
        "open 24/7",
        "call 555-1234",
        "in 1966, 4-2",
    ],
)
def test_expressions_without_an_operation_on_numbers_are_none(text: str) -> None:
    assert expressions(text) == ()


def test_spoken_numbers_become_digits() -> None:
    assert spoken_to_digits("two thousand three hundred and five, then six") == "2305, then 6"

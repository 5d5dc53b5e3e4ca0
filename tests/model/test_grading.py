"""Answers are right or wrong as the guide says, and a bad calibration file is told where it is bad."""

from pathlib import Path

import pytest

from edgeagent.core.errors import RequestError
from edgeagent.model.grading import Item, read_items

SHIPPED = Path(__file__).parents[2] / "tools/data/cascade-questions.jsonl"
NUMBER = Item(question="?", check="number", answers=("1000",))
CHOICE = Item(question="?", check="choice", options=("yes", "no"), answers=("no",))


@pytest.mark.parametrize(
    ("item", "answer", "is_right"),
    [
        (Item(question="?", check="exact", answers=("small", "little")), " Little.\n", True),
        (Item(question="?", check="exact", answers=("small",)), "It is small.", False),
        (Item(question="?", check="contains", answers=("ice",)), "It is called ICE.", True),
        (Item(question="?", check="contains", answers=("ice",)), "It is nice.", False),
        (NUMBER, "Of 25 and 40 it makes 1,000.", True),
        (NUMBER, "1000 is not 25", False),
        (NUMBER, "a thousand", False),
        (Item(question="?", check="number", answers=("-3",)), "2-5 is \N{MINUS SIGN}3", True),
        (Item(question="?", check="number", answers=("3",)), "5-3", True),
        (CHOICE, "No, it is not. Yes would be wrong.", True),
        (CHOICE, "Yes.", False),
        (CHOICE, "Nobody knows.", False),
    ],
)
def test_answer_is_right_as_its_check_says(item: Item, answer: str, is_right: bool) -> None:
    assert item.accepts(answer) is is_right


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "line 2: the whole"),
        ('{"question": "?", "check": "number", "answers": ["many"]}', "answers that are numbers"),
        ('{"question": "?", "check": "choice", "answers": ["a"]}', "'options' belong to"),
        ('{"question": "?", "check": "choice", "options": ["a", "b"], "answers": ["c"]}', "some of 'options'"),
        ('{"question": "?", "check": "exact", "answers": []}', "line 2: answers"),
        ('{"question": "?", "check": "exact", "answer": ["a"]}', "line 2: answers"),
        ('{"question": "first", "check": "exact", "answers": ["a"]}', "asks twice: 'first'"),
    ],
)
def test_bad_line_is_named(line: str, said: str) -> None:
    first = '{"question": "first", "check": "exact", "answers": ["a"]}'
    with pytest.raises(RequestError, match=said):
        read_items(f"{first}\n{line}\n".encode(), "file")


def test_empty_file_is_refused() -> None:
    with pytest.raises(RequestError, match="holds 0 questions"):
        read_items(b"\n\n", "file")


def test_shipped_questions_are_sound_and_their_answers_pass_their_own_checks() -> None:
    items = read_items(SHIPPED.read_bytes(), SHIPPED.name)
    assert len(items) >= 120
    assert all(item.accepts(answer) for item in items for answer in item.answers)

"""The calculator's arithmetic: right values, and nothing that hangs, grows or runs code."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.arithmetic import MAX_BITS, evaluate, spell
from edgeagent.core.errors import ToolError


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("17 * 23", "391"),
        ("(4 + 5) * 3 - 2", "25"),
        ("0.1 + 0.2", "0.3"),
        ("7 // 2 + 7 % 2", "4"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("-3 ** 2", "-9"),
        ("sqrt(144)", "12"),
        ("round(3.14159, 2)", "3.14"),
        ("max(3, 7) * pi", "21.9911485751"),
        ("factorial(5)", "120"),
    ],
)
def test_evaluate_arithmetic_gives_its_value(expression: str, value: str) -> None:
    assert spell(evaluate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9 ** 9 ** 9", "too large"),
        ("10 ** 400 * 1.0", "too large"),
        ("1e999", "too large"),
        ("factorial(100000)", "up to 400"),
        ("1 / 0", "divides by zero"),
        ("(-8) ** 0.5", "no value"),
        ("log(-1)", "no value"),
        ("max()", "no value"),
        ("1 +", "not a complete expression"),
        ("(" * 250, "not a complete expression"),
        ("1" * 300, "longer than 256"),
        ("x + 1", "not arithmetic"),
        ("True", "not arithmetic"),
        ("1or 2", "not arithmetic"),
        ("__import__('os')", "not arithmetic"),
        ("(1).real", "not arithmetic"),
        ("sqrt", "not arithmetic"),
        ("max(*[1, 2])", "not arithmetic"),
    ],
)
def test_evaluate_anything_else_says_why_not(expression: str, why: str) -> None:
    with pytest.raises(ToolError, match=why):
        evaluate(expression)


@given(st.text(alphabet="0123456789.+-*/%() ,sqrtfactoiexlg", max_size=40))
def test_evaluate_any_text_ends_in_a_bounded_value_or_a_tool_error(expression: str) -> None:
    try:
        value = evaluate(expression)
    except ToolError:
        return
    assert isinstance(value, float) or value.bit_length() <= MAX_BITS


@given(st.recursive(st.integers(-99, 99), lambda s: st.tuples(s, st.sampled_from("+-*"), s), max_leaves=12))
def test_evaluate_agrees_with_python_on_whole_numbers(tree: object) -> None:
    expression = _written(tree)
    if len(expression) <= 256:
        assert evaluate(expression) == _computed(tree)


def _written(tree: object) -> str:
    return f"({_written(tree[0])} {tree[1]} {_written(tree[2])})" if isinstance(tree, tuple) else str(tree)


def _computed(tree: object) -> int:
    if not isinstance(tree, tuple):
        assert isinstance(tree, int)
        return tree
    left, right = _computed(tree[0]), _computed(tree[2])
    return {"+": left + right, "-": left - right, "*": left * right}[tree[1]]

"""Arithmetic without `eval`: Python's expression syntax, walked node by node, with every size bounded.

No input can hang it or exhaust memory: the text, the tree and every intermediate integer have a cap.
"""

import ast
import math
import operator
import re
from collections.abc import Callable

from edgeagent.core.errors import ToolError

MAX_EXPRESSION_CHARS = 256
MAX_BITS = 4096  # about 1,200 digits: more than anyone reads, and every operation on it takes microseconds
MAX_FACTORIAL = 400  # 400! still fits MAX_BITS

Value = int | float

_BINARY: dict[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Value], Value]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CONSTANTS: dict[str, Value] = {"pi": math.pi, "e": math.e, "tau": math.tau}


def _factorial(value: Value) -> Value:
    if not isinstance(value, int) or value > MAX_FACTORIAL:
        raise ToolError(f"factorial takes a whole number up to {MAX_FACTORIAL}; use a smaller one")
    return math.factorial(value)


def _round(value: Value, digits: Value = 0) -> Value:
    places = max(-99, min(99, int(digits)))  # a huge negative place count would build a huge power of ten
    return round(value, places) if places else round(value)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "sqrt": math.sqrt,
    "cbrt": math.cbrt,
    "abs": abs,
    "round": _round,
    "floor": math.floor,
    "ceil": math.ceil,
    "factorial": _factorial,
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "min": min,
    "max": max,
}


def evaluate(expression: str) -> Value:
    """The value of an arithmetic expression. Raises ToolError for anything else, and for what is too large."""
    tree = parse(expression)
    try:
        return _value(tree)
    except ZeroDivisionError:
        raise ToolError(f"'{expression}' divides by zero; it has no value") from None
    except (ValueError, TypeError) as error:
        raise ToolError(f"'{expression}' has no value: {error}; correct it") from None
    except OverflowError:
        raise ToolError(f"'{expression}' is too large to compute; use smaller numbers") from None


def parse(expression: str) -> ast.expr:
    """The syntax tree of an expression. Raises ToolError when it is too long or not an expression."""
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise ToolError(f"the expression is longer than {MAX_EXPRESSION_CHARS} characters; shorten it")
    # `1or` and the like make the parser print a warning before it refuses; nothing arithmetic needs them.
    if not re.fullmatch(r"[\w.,()+\-*/% ]+", expression) or re.search(r"\d[A-Za-df-z_]", expression):
        raise ToolError(f"'{expression}' is not arithmetic; use numbers, + - * / // % ** and parentheses")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError(f"'{expression}' is not a complete expression; correct it") from None


def spell(value: Value) -> str:
    """Twelve significant digits, and no decimal point for a whole number."""
    return format(value, ".12g") if isinstance(value, float) else str(value)


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return _bounded(FUNCTIONS[name](*map(_value, arguments)))
    raise ToolError(f"'{ast.unparse(node)}' is not arithmetic; use numbers, + - * / // % ** and parentheses")


def _power(base: Value, exponent: Value) -> Value:
    # Checked before it is computed: 9 ** 9 ** 9 would never return.
    if isinstance(base, int) and isinstance(exponent, int) and exponent * base.bit_length() > MAX_BITS:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError("a root of a negative number is not a real number")
    return result


def _bounded(value: Value) -> Value:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    return value

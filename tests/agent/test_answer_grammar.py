"""Grammars of answers: recursion, alternatives that exclude each other, decimal bounds; llama.cpp is the judge."""

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeagent.agent.grammar import answer_grammar, to_gbnf
from edgeagent.agent.schema import violation
from edgeagent.agent.schema_reader import read_schema
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError

if TYPE_CHECKING:
    from tests.agent.conftest import GrammarJudge

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}}
CHAIN: JsonObject = {"$ref": "#/$defs/node", "$defs": {"node": NODE}}


@pytest.mark.parametrize("depth", [0, 1, 40])
def test_grammar_of_a_recursive_schema_takes_any_depth(judge: "GrammarJudge", depth: int) -> None:
    text = '{"next": ' * depth + '{"n": 1}' + "}" * depth

    assert judge.accepts(answer_grammar(CHAIN), text)
    assert not judge.accepts(answer_grammar(CHAIN), text.replace("1", '"1"'))
    assert violation(read_schema(CHAIN), json.loads(text)) is None
    assert violation(read_schema(CHAIN), json.loads(text.replace("1", '"1"'))) is not None


def test_grammar_of_the_root_within_itself(judge: "GrammarJudge") -> None:
    tree: JsonObject = {"type": "array", "items": {"$ref": "#"}}

    assert judge.accepts(answer_grammar(tree), "[[], [[]]]")
    assert not judge.accepts(answer_grammar(tree), "[1]")


def test_answers_that_never_end_are_refused() -> None:
    with pytest.raises(RequestError, match="ends"):
        answer_grammar({"$ref": "#/$defs/node", "$defs": {"node": NODE | {"required": ["next"]}}})


@pytest.mark.parametrize(
    ("options", "is_taken"),
    [
        ([{"type": "string"}, {"type": "integer"}], True),
        ([{"type": "number"}, {"type": "integer"}], False),
        ([{"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}], True),
        ([{"const": "a"}, {"enum": ["b", "c"]}], True),
        ([{"const": "a"}, {"type": "string"}], False),
        ([{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}], True),
        (
            [
                {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}
                for kind in ("circle", "square")
            ],
            True,
        ),
        (
            [
                {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
                for name in ("width", "radius")
            ],
            True,
        ),
        ([{"type": "object", "properties": {name: {"type": "integer"}}} for name in ("width", "radius")], False),
        ([{"type": "object", "properties": {}}, {"type": "object", "additionalProperties": {}}], False),
        ([{}, {"type": "string"}], False),
    ],
)
def test_one_of_is_promised_only_where_its_options_exclude_each_other(
    options: list[JsonObject], is_taken: bool
) -> None:
    if is_taken:
        assert answer_grammar({"oneOf": options})
        return
    with pytest.raises(RequestError, match="oneOf"):
        answer_grammar({"oneOf": options})


def bounds_of(low: float, width: float, *, above: bool, below: bool) -> JsonObject:
    keys = ("exclusiveMinimum" if above else "minimum", "exclusiveMaximum" if below else "maximum")
    return {"type": "number"} | dict(zip(keys, (low, round(low + width, 3)), strict=True))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.builds(
        bounds_of,
        st.integers(-3000, 3000).map(lambda n: n / 1000),
        st.integers(1, 4000).map(lambda n: n / 1000),
        above=st.booleans(),
        below=st.booleans(),
    ),
    st.integers(-8000, 8000),
)
def test_number_with_decimal_bounds_is_taken_when_it_lies_between(
    judge: "GrammarJudge", schema: JsonObject, thousandths: int
) -> None:
    text = f"{'-' * (thousandths < 0)}{abs(thousandths) // 1000}.{abs(thousandths) % 1000:03}"
    digits = 3 + 2 * ("exclusiveMinimum" in schema or "exclusiveMaximum" in schema)
    tree = read_schema(schema)
    decimals = max(len(str(value).partition(".")[2].rstrip("0")) for key, value in schema.items() if key != "type")
    spelled = text + "0" * (digits - 3) if decimals == 3 else f"{thousandths / 1000}"
    fits = violation(tree, thousandths / 1000) is None

    accepted = judge.accepts(to_gbnf(tree), spelled)
    assert not accepted or fits
    assert accepted or not fits or decimals < 3

"""Grammars, judged by llama.cpp's own sampler: what fits is accepted, what does not is refused."""

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from edgeagent.agent.grammar import grammar_for, spell, to_gbnf
from edgeagent.agent.schema import JsonValue, violation
from edgeagent.agent.schema_reader import read_schema
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError

if TYPE_CHECKING:
    from tests.agent.conftest import GrammarJudge

WEATHER: JsonObject = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 14},
    },
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"city": "Paris"}', True),
        ('{"city": "São Paulo"}', True),
        ('{"city": "Pa\\"ris\\n\\u00e9"}', True),
        ('{"city": "Paris", "unit": "celsius", "days": 14}', True),
        ('{"city": "Paris", "days": null}', True),
        ('{"city": "Paris", "days": 15}', False),
        ('{"city": "Paris", "days": 0}', False),
        ('{"city": "Paris", "unit": "kelvin"}', False),
        ('{"unit": "celsius"}', False),
        ('{"city": "Paris"', False),
        ('{"city": "Paris",}', False),
        ('{"city": "a\nb"}', False),
        ('{"city": "\\ud800"}', False),
        ('{"city": "\\x"}', False),
        ('{"city": "thirteen char"}', False),
        ('{"city": "Paris", "zip": "75001"}', False),
    ],
)
def test_grammar_of_a_tool_accepts_exactly_what_fits(judge: "GrammarJudge", text: str, fits: bool) -> None:
    assert judge.accepts(grammar_for(WEATHER), text) is fits


scalars: st.SearchStrategy[JsonObject] = st.one_of(
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    st.builds(
        lambda kind, low, more: {"type": kind, "minimum": low, "maximum": low + more},
        st.sampled_from(["integer", "number"]),
        st.integers(-120, 120),
        st.integers(0, 300),
    ),
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    st.lists(st.one_of(st.integers(-9, 9), st.text(max_size=4)), min_size=1, max_size=3).map(lambda v: {"enum": v}),
)


def containers(inner: st.SearchStrategy[JsonObject]) -> st.SearchStrategy[JsonObject]:
    names = st.sampled_from(["a", "b", 'q"uo\\te', "é", "n\n"])
    objects = st.dictionaries(names, inner, max_size=4).flatmap(
        lambda properties: st.builds(
            lambda required: {"type": "object", "properties": properties, "required": required},
            st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([]),
        )
    )
    arrays = st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 3),
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    maps = inner.map(lambda values: {"type": "object", "additionalProperties": values})
    return st.one_of(objects, arrays, unions, maps)


schemas = st.recursive(scalars, containers, max_leaves=6)
plain = st.characters(exclude_categories=["Cs"])
numbers = st.one_of(st.integers(-(10**9), 10**9), st.integers(-150, 450), st.integers(-400, 400).map(lambda n: n / 4))


def values_of(schema: JsonObject) -> st.SearchStrategy[JsonValue]:
    """Documents that mostly fit `schema`; the validator has the last word."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([values_of(option) for option in schema["anyOf"]])
    match schema.get("type"):
        case "string":
            return st.text(plain, min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 8))
        case "integer":
            return st.integers(schema.get("minimum", -(10**9)), schema.get("maximum", 10**9))
        case "number":
            return numbers
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(values_of(schema["items"]), min_size=schema["minItems"], max_size=schema["maxItems"])
        case "object" if "properties" in schema:
            required = {k: values_of(v) for k, v in schema["properties"].items() if k in schema["required"]}
            optional = {k: values_of(v) for k, v in schema["properties"].items() if k not in schema["required"]}
            return st.fixed_dictionaries(required, optional=optional)
        case "object":
            return st.dictionaries(st.text(plain, max_size=3), values_of(schema["additionalProperties"]), max_size=3)
    return st.none()


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(plain, max_size=6)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3),
    max_leaves=4,
)


def in_order(schema: JsonObject, value: JsonValue) -> JsonValue:
    """`value` as the grammar writes it: properties in the schema's order, and integers without fraction."""
    if isinstance(value, float) and value.is_integer() and (schema.get("type") == "integer" or "enum" in schema):
        return int(value)
    if isinstance(value, dict) and "properties" in schema:
        inner = schema["properties"]
        known = {name: in_order(inner[name], value[name]) for name in inner if name in value}
        return known | {name: each for name, each in value.items() if name not in known}
    if isinstance(value, dict) and "additionalProperties" in schema:
        return {name: in_order(schema["additionalProperties"], each) for name, each in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [in_order(schema["items"], each) for each in value]
    for option in schema.get("anyOf", []):
        if violation(read_schema(option), value) is None:
            return in_order(option, value)
    return value


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_grammar_and_any_document_agree_with_the_validator(judge: "GrammarJudge", data: st.DataObject) -> None:
    schema = data.draw(schemas)
    value = data.draw(st.one_of(values_of(schema), anything))
    tree = read_schema(schema)
    text = spell(in_order(schema, value))
    assume(judge.can_spell(text))

    assert judge.accepts(to_gbnf(tree), text) == (violation(tree, value) is None), (schema, text)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything, st.data())
def test_grammar_of_any_json_refuses_a_damaged_document(
    judge: "GrammarJudge", value: JsonValue, data: st.DataObject
) -> None:
    text = spell(value)
    cut = data.draw(st.integers(0, len(text)))
    damaged = text[:cut] + data.draw(st.sampled_from(["", '"', "}", ",", "\x01", "\\"])) + text[cut + 1 :]

    assume(judge.can_spell(damaged))

    assert judge.accepts(grammar_for({}), damaged) == _is_canonical(damaged)


def _is_canonical(text: str) -> bool:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, UnicodeEncodeError):
        return False
    # The same parts in the same spelling; only a string's optional escapes may differ.
    return "NaN" not in text and "Infinity" not in text and len(spell(value)) <= len(text)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "string", "pattern": "a+", "maxLength": 3}, "pattern"),
        ({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 3}}}, "multipleOf"),
        ({"allOf": [{"type": "string"}, {"maxLength": 3}]}, "allOf"),
        ({"$ref": "#/$defs/a", "maxLength": 3, "$defs": {"a": {"type": "string"}}}, "maxLength"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "nothing but itself"),
        ({"type": "number", "exclusiveMinimum": 5, "maximum": 5}, "between 5 and 5"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "text"}, "'text'"),
        ({"$ref": "https://example.org/s.json"}, "$ref"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "'a'"),
        ({"enum": []}, "enum"),
        ({"type": "string", "maxLength": -1}, "maxLength"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "between 5 and 4"),
    ],
)
def test_grammar_of_an_unsupported_schema_names_what_is_unsupported(schema: JsonObject, named: str) -> None:
    with pytest.raises(RequestError) as caught:
        grammar_for(schema)

    assert named in str(caught.value)


def test_grammar_of_a_huge_schema_is_refused() -> None:
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(600)}}

    with pytest.raises(RequestError, match="512"):
        grammar_for(schema)

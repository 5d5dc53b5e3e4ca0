"""Random JSON schemas of everything that `response_format` promises."""

from hypothesis import strategies as st

from edgeagent.core.chat import JsonObject

Schemas = st.SearchStrategy[JsonObject]

PATTERNS = [
    r"^[A-Z]{2}-\d{3}$", r"^\d{4}-(0[1-9]|1[0-2])-\d{2}$", r"^[a-z]+@[a-z]+\.(com|org)$", r"^#[0-9a-f]{6}$",
    "^(yes|no)$", r"^\S{3,12}$", "an?", r'^"[^"\\]{1,5}"$', r"^\w+( \w+){0,3}$",
]  # fmt: skip
NAMES = ["name", "city", "age", "is_open", "tags", "price", "größe", 'q"uoted', "unit", "note"]


def _number(kind: str, low: float, width: float, *, above: bool, below: bool, sides: int) -> JsonObject:
    bounds = {"exclusiveMinimum" if above else "minimum": low, "exclusiveMaximum" if below else "maximum": low + width}
    return {"type": kind} | dict(list(bounds.items())[: sides + 1])


numbers: Schemas = st.one_of(
    st.builds(
        _number, st.just("integer"), st.integers(-500, 500), st.integers(2, 900),
        above=st.booleans(), below=st.booleans(), sides=st.integers(0, 1),
    ),
    st.builds(
        _number, st.just("number"), st.integers(-800, 800).map(lambda n: n / 8),
        st.integers(1, 90).map(lambda n: n / 4), above=st.booleans(), below=st.booleans(), sides=st.integers(0, 1),
    ),
)  # fmt: skip
texts: Schemas = st.one_of(
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 4),
        st.integers(0, 16),
    ),
    st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
)
literals: Schemas = st.lists(
    st.one_of(
        st.integers(-9, 999), st.booleans(), st.none(), st.sampled_from(["red", "green", "São Paulo", 'a "b" \\ c'])
    ),
    min_size=1, max_size=4,
).map(lambda values: {"enum": values})  # fmt: skip
kinds: Schemas = st.sampled_from(["integer", "number", "boolean", "null", ["integer", "null"]]).map(
    lambda kind: {"type": kind}
)
references: Schemas = st.sampled_from(["node", "colour"]).map(lambda name: {"$ref": f"#/$defs/{name}"})
scalars = st.one_of(numbers, texts, literals, kinds, references)


def _containers(inner: Schemas) -> Schemas:
    properties = st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=4)
    objects = properties.flatmap(
        lambda each: st.lists(st.sampled_from(sorted(each)), unique=True).map(
            lambda required: {
                "type": "object", "properties": each, "required": required, "additionalProperties": False,
            }
        )
    )  # fmt: skip
    arrays = st.builds(
        lambda items, low, more: {"type": "array", "items": items, "minItems": low, "maxItems": low + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 3),
    )
    unions = st.lists(inner, min_size=2, max_size=3).map(lambda options: {"anyOf": options})
    tagged = st.lists(properties, min_size=2, max_size=3).map(
        lambda options: {
            "oneOf": [
                {"type": "object", "properties": {"kind": {"const": i}} | each, "required": ["kind"]}
                for i, each in enumerate(options)
            ]
        }
    )
    return st.one_of(objects, objects, arrays, unions, tagged)


DEFINITIONS: JsonObject = {
    "colour": {"enum": ["red", "green", "blue"]},
    "node": {
        "type": "object",
        "properties": {"value": {"type": "integer", "minimum": 0}, "next": {"$ref": "#/$defs/node"}},
        "required": ["value"],
        "additionalProperties": False,
    },
}
answer_schemas: Schemas = st.recursive(scalars, _containers, max_leaves=6).map(
    lambda each: each | {"$defs": DEFINITIONS}
)

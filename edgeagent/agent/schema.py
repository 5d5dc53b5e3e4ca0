"""A JSON schema as a small tree, and the check of a value against it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from edgeagent.agent.language.regex import Pattern

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


@dataclass(frozen=True, slots=True)
class Literals:
    """One of these values and nothing else."""

    values: tuple[JsonValue, ...]


@dataclass(frozen=True, slots=True)
class String:
    """Lengths count Unicode code points."""

    min_length: int = 0
    max_length: int | None = None
    pattern: Pattern | None = None


@dataclass(frozen=True, slots=True)
class Number:
    """Bounds, with or without the bound itself; None leaves a side open."""

    is_integer: bool
    minimum: int | float | None = None
    maximum: int | float | None = None
    is_above: bool = False
    """The minimum itself does not fit."""
    is_below: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    items: "Schema"
    min_items: int = 0
    max_items: int | None = None


@dataclass(frozen=True, slots=True)
class Property:
    name: str
    schema: "Schema"
    is_required: bool
    description: str = ""
    format: str = ""
    """An annotation: it guides the choice of values, not their validity."""


@dataclass(frozen=True, slots=True)
class Object:
    """Exactly these properties, written in this order."""

    properties: tuple[Property, ...]
    is_closed: bool = False
    """Whether the document itself forbids other names."""


@dataclass(frozen=True, slots=True)
class Map:
    """Any names, each with a value of one schema."""

    values: "Schema"


@dataclass(frozen=True, slots=True)
class AnyOf:
    options: tuple["Schema", ...]


@dataclass(frozen=True, slots=True)
class Anything:
    """Every JSON value."""


@dataclass(frozen=True, slots=True, eq=False)
class Recursive:
    """A definition that is part of itself, by its name among those of the whole document."""

    name: str
    definitions: "Mapping[str, Schema]"

    @property
    def schema(self) -> "Schema":
        return self.definitions[self.name]


Schema = Literals | String | Number | Array | Object | Map | AnyOf | Anything | Recursive
BOOLEAN = Literals((False, True))
NULL = Literals((None,))


_FREE_CHARS = 64
_FREE_ITEMS = 4


def bounded(schema: Schema) -> Schema:
    """The part of `schema` that a model finishes in little space: short texts, few items, required properties only."""
    match schema:
        case String(least, most, None):
            return String(least, max(least, min(most or _FREE_CHARS, _FREE_CHARS)))
        case Array(items, least, most):
            few = _FREE_ITEMS if most is None else min(most, _FREE_ITEMS)
            return Array(bounded(items), least, max(least, few))
        case Object(properties):
            kept = tuple(replace(p, schema=bounded(p.schema)) for p in properties if p.is_required)
            return replace(schema, properties=kept)
        case AnyOf(options):
            return AnyOf(tuple(map(bounded, options)))
        case Map():
            return Literals(({},))
        case Anything():
            return bounded(String())
    return schema


def violation(schema: Schema, value: JsonValue, where: str = "value") -> str | None:
    """What keeps `value` from fitting, as one phrase that names the place; None when it fits."""
    try:
        return next(_violations(schema, value, where), None)
    except RecursionError:
        return f"{where} nests too deeply"


def _violations(schema: Schema, value: JsonValue, where: str) -> Iterator[str]:
    match schema:
        case Anything():
            return
        case Literals(values):
            if not any(_same(value, each) for each in values):
                yield f"{where} is none of {', '.join(map(repr, values[:20]))}"
        case AnyOf(options):
            problems = [violation(option, value, where) for option in options]
            if None not in problems:
                yield f"{where} fits no alternative ({problems[0]})"
        case String():
            yield from _string_violations(schema, value, where)
        case Number():
            yield from _number_violations(schema, value, where)
        case Array():
            yield from _array_violations(schema, value, where)
        case Object() | Map():
            yield from _object_violations(schema, value, where)
        case Recursive():
            yield from _violations(schema.schema, value, where)


def _same(left: JsonValue, right: JsonValue) -> bool:
    # JSON tells `true` from `1`; Python's == does not.
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def _string_violations(schema: String, value: JsonValue, where: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{where} is not a string"
    elif len(value) < schema.min_length:
        yield f"{where} is shorter than {schema.min_length} characters"
    elif schema.max_length is not None and len(value) > schema.max_length:
        yield f"{where} is longer than {schema.max_length} characters"
    elif schema.pattern is not None and not schema.pattern.fits(value):
        yield f"{where} does not match {schema.pattern.source!r}"


def _number_violations(schema: Number, value: JsonValue, where: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{where} is not a number"
    elif schema.is_integer and isinstance(value, float) and not value.is_integer():
        yield f"{where} is not a whole number"
    elif schema.minimum is not None and (value < schema.minimum or (schema.is_above and value == schema.minimum)):
        yield f"{where} is {'not above' if schema.is_above else 'below'} {schema.minimum}"
    elif schema.maximum is not None and (value > schema.maximum or (schema.is_below and value == schema.maximum)):
        yield f"{where} is {'not below' if schema.is_below else 'above'} {schema.maximum}"


def _array_violations(schema: Array, value: JsonValue, where: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where} is not an array"
        return
    if len(value) < schema.min_items or (schema.max_items is not None and len(value) > schema.max_items):
        yield f"{where} has {len(value)} items, which is not the number wanted"
    for index, item in enumerate(value):
        yield from _violations(schema.items, item, f"{where}[{index}]")


def _object_violations(schema: Object | Map, value: JsonValue, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is not an object"
        return
    if isinstance(schema, Map):
        for name, item in value.items():
            yield from _violations(schema.values, item, f"{where}.{name}")
        return
    known = {each.name: each for each in schema.properties}
    for name in value.keys() - known.keys():
        yield f"{where}.{name} is not a known name"
    for name, each in known.items():
        if name in value:
            yield from _violations(each.schema, value[name], f"{where}.{name}")
        elif each.is_required:
            yield f"{where}.{name} is missing"

"""Reads a JSON schema into the tree of `schema`.

The subset is what tools and structured answers use: fixed properties, strings, numbers, arrays, unions, local
references. Everything else is refused by name, because a keyword that is silently ignored breaks a promise.
"""

from edgeagent.agent.schema import (
    BOOLEAN,
    NULL,
    AnyOf,
    Anything,
    Array,
    Literals,
    Map,
    Number,
    Object,
    Property,
    Schema,
    String,
    violation,
)
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError

MAX_DEPTH = 12
MAX_NODES = 512  # a schema is read for every request: its size must not decide how long that takes

_ANNOTATIONS = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "format",
}
_STRUCTURE = {"type", "enum", "const", "anyOf", "oneOf", "$ref", "$defs", "definitions", "strict"}
_KEYWORDS = {
    "string": {"minLength", "maxLength"},
    "integer": {"minimum", "maximum"},
    "number": {"minimum", "maximum"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set[str](),
    "null": set[str](),
}


def read_schema(document: JsonObject) -> Schema:
    """The tree behind `document`. Raises RequestError that names an unsupported or malformed keyword.

    `oneOf` is read as `anyOf`; a recursive `$ref` is refused as too deep.
    """
    return _Reader(document).read(document, "schema", 0)


class _Reader:
    def __init__(self, root: JsonObject) -> None:
        self._root = root
        self._num_nodes = 0

    def read(self, node: object, where: str, depth: int) -> Schema:
        self._num_nodes += 1
        if depth > MAX_DEPTH or self._num_nodes > MAX_NODES:
            raise RequestError(
                f"{where}: the schema is deeper than {MAX_DEPTH} or larger than {MAX_NODES} nodes; make it smaller"
            )
        if node is True:
            return Anything()
        if not isinstance(node, dict):
            raise RequestError(f"{where}: a schema must be an object; correct it")
        if "$ref" in node:
            return self.read(self._resolve(node["$ref"], where), where, depth + 1)
        if "const" in node or "enum" in node:
            return self._literals(node, where, depth)
        for union in ("anyOf", "oneOf"):
            if union in node:
                return self._union(node, union, where, depth)
        return self._typed(node, where, depth)

    def _resolve(self, reference: object, where: str) -> object:
        parts = reference.split("/") if isinstance(reference, str) else []
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in {"$defs", "definitions"}:
            raise RequestError(f"{where}: $ref {reference!r} is not supported; point it at '#/$defs/NAME'")
        found = self._root.get(parts[1], {})
        if not isinstance(found, dict) or parts[2] not in found:
            raise RequestError(f"{where}: $ref {reference!r} points at nothing; define it")
        return found[parts[2]]

    def _literals(self, node: JsonObject, where: str, depth: int) -> Schema:
        values = [node["const"]] if "const" in node else node["enum"]
        if not isinstance(values, list) or not values:
            raise RequestError(f"{where}: enum must be a list with at least one value; correct it")
        rest = {key: value for key, value in node.items() if key not in {"const", "enum"}}
        outer = self.read(rest, where, depth + 1) if rest.keys() - _ANNOTATIONS else Anything()
        fitting = tuple(value for value in values if violation(outer, value) is None)
        if not fitting:
            raise RequestError(f"{where}: no value of enum fits the rest of the schema; correct it")
        return Literals(fitting)

    def _union(self, node: JsonObject, keyword: str, where: str, depth: int) -> Schema:
        _refuse_unknown(node.keys() - _ANNOTATIONS - {keyword, "$defs", "definitions"}, f"{where} beside {keyword}")
        options = node[keyword]
        if not isinstance(options, list) or not options:
            raise RequestError(f"{where}: {keyword} must be a list with at least one schema; correct it")
        return AnyOf(tuple(self.read(option, f"{where}.{keyword}", depth + 1) for option in options))

    def _typed(self, node: JsonObject, where: str, depth: int) -> Schema:
        kinds = node.get("type", _implied_type(node))
        if kinds is None:
            _refuse_unknown(node.keys() - _ANNOTATIONS - _STRUCTURE, where)
            return Anything()
        names: list[str] = kinds if isinstance(kinds, list) else [kinds]
        if not names or not all(isinstance(name, str) and name in _KEYWORDS for name in names):
            raise RequestError(f"{where}: type {kinds!r} is not a JSON type; use one of {', '.join(_KEYWORDS)}")
        allowed = _ANNOTATIONS.union(_STRUCTURE, *(_KEYWORDS[name] for name in names))
        _refuse_unknown(node.keys() - allowed, where)
        options = tuple(self._of_type(name, node, where, depth) for name in names)
        return options[0] if len(options) == 1 else AnyOf(options)

    def _of_type(self, kind: str, node: JsonObject, where: str, depth: int) -> Schema:
        match kind:
            case "string":
                return String(_count(node, "minLength", where) or 0, _count(node, "maxLength", where))
            case "integer" | "number":
                return Number(kind == "integer", _bound(node, "minimum", where), _bound(node, "maximum", where))
            case "array":
                items = self.read(node.get("items", True), f"{where}[]", depth + 1)
                return Array(items, _count(node, "minItems", where) or 0, _count(node, "maxItems", where))
            case "object":
                return self._object(node, where, depth)
            case "boolean":
                return BOOLEAN
            case _:
                return NULL

    def _object(self, node: JsonObject, where: str, depth: int) -> Schema:
        properties, required = node.get("properties"), node.get("required", [])
        extra = node.get("additionalProperties", True)
        if not isinstance(required, list) or not isinstance(properties, dict | None):
            raise RequestError(f"{where}: 'properties' must be an object and 'required' a list; correct them")
        if missing := [name for name in required if name not in (properties or {})]:
            raise RequestError(f"{where}: required property {missing[0]!r} is not described; add it to 'properties'")
        if properties is None and extra is not False:
            return Map(self.read(extra, f"{where}.*", depth + 1))
        if isinstance(extra, dict) and extra:
            raise RequestError(f"{where}: additionalProperties beside properties is not supported; remove it")
        return Object(
            tuple(
                Property(
                    name,
                    self.read(inner, f"{where}.{name}", depth + 1),
                    name in required,
                    _annotation(inner, "description"),
                    _annotation(inner, "format"),
                )
                for name, inner in (properties or {}).items()
            )
        )


def _implied_type(node: JsonObject) -> str | None:
    return "object" if "properties" in node else "array" if "items" in node else None


def _annotation(node: object, keyword: str) -> str:
    return str(node.get(keyword, "")) if isinstance(node, dict) else ""


def _refuse_unknown(keywords: set[str], where: str) -> None:
    if keywords:
        named = ", ".join(sorted(map(str, keywords)))
        raise RequestError(f"{where}: schema keyword {named} is not supported; remove it")


def _count(node: JsonObject, keyword: str, where: str) -> int | None:
    value = node.get(keyword)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise RequestError(f"{where}: {keyword} must be a whole number from 0; correct it")


def _bound(node: JsonObject, keyword: str, where: str) -> int | float | None:
    value = node.get(keyword)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15):
        return value
    raise RequestError(f"{where}: {keyword} must be a number below 1e15; correct it")

"""Reads a JSON schema into the tree of `schema`.

The subset is what tools and structured answers use: fixed properties, strings, numbers, arrays, unions, local
references, also to themselves. Everything else is refused by name, because a keyword that is silently ignored
breaks a promise.
"""

from edgeagent.agent.disjoint import are_apart
from edgeagent.agent.language.regex import Pattern, read_regex
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
    Recursive,
    Schema,
    String,
    violation,
)
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError

MAX_DEPTH = 12
MAX_PATTERN_CHARS = 8192  # of all patterns together
MAX_NODES = 512  # a schema is read for every request: its size must not decide how long that takes

_ANNOTATIONS = {
    "title",
    "description",
    "default",
    "$comment",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "format",
}
_STRUCTURE = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "strict"}
_KEYWORDS = {
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set[str](),
    "null": set[str](),
}


def read_schema(document: JsonObject, *, is_exact: bool = False) -> Schema:
    """The tree behind `document`. Raises RequestError that names an unsupported or malformed keyword.

    `oneOf` is read as `anyOf`; with `is_exact` only where its options exclude each other, else it is refused.
    """
    return _Reader(document, is_exact=is_exact).read(document, "schema", 0)


class _Reader:
    def __init__(self, root: JsonObject, *, is_exact: bool) -> None:
        self._root = root
        self._is_exact = is_exact
        self._num_nodes = self._num_pattern_chars = 0
        self._open: dict[str, int] = {}
        """References that are being read (one that comes again is recursive), and how many containers were open."""
        self._num_containers = 0
        self._definitions: dict[str, Schema] = {}
        self._recursive: set[str] = set()

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
            _refuse_unknown(node.keys() - _ANNOTATIONS - {"$ref", "$defs", "definitions"}, f"{where} beside $ref")
            return self._referred(node["$ref"], where, depth)
        if "allOf" in node:
            return self._only(node, where, depth)
        if "const" in node or "enum" in node:
            return self._literals(node, where, depth)
        for union in ("anyOf", "oneOf"):
            if union in node:
                return self._union(node, union, where, depth)
        return self._typed(node, where, depth)

    def _referred(self, reference: object, where: str, depth: int) -> Schema:
        target, name = self._resolve(reference, where), str(reference)
        if name in self._open:
            if self._open[name] == self._num_containers:
                raise RequestError(f"{where}: $ref {name!r} is nothing but itself; give it a shape")
            self._recursive.add(name)
            return Recursive(name, self._definitions)
        if name in self._definitions:
            return Recursive(name, self._definitions)
        self._open[name] = self._num_containers
        tree = self.read(target, where, depth + 1)
        del self._open[name]
        if name not in self._recursive:
            return tree
        self._definitions[name] = tree
        return Recursive(name, self._definitions)

    def _only(self, node: JsonObject, where: str, depth: int) -> Schema:
        """`allOf` of one schema, which is how some generators put a description beside a reference."""
        options = node["allOf"]
        if not isinstance(options, list) or len(options) != 1:
            raise RequestError(f"{where}: allOf of several schemas is not supported; write them as one")
        _refuse_unknown(node.keys() - _ANNOTATIONS - {"allOf", "$defs", "definitions"}, f"{where} beside allOf")
        return self.read(options[0], where, depth + 1)

    def _resolve(self, reference: object, where: str) -> object:
        if reference == "#":
            return self._root
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
        read = tuple(self.read(option, f"{where}.{keyword}", depth + 1) for option in options)
        if keyword == "oneOf" and self._is_exact and not are_apart(read):
            raise RequestError(f"{where}: a value may fit two options of oneOf; use anyOf, or a const that tells them")
        return AnyOf(read)

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
        self._num_containers += 1
        options = tuple(self._of_type(name, node, where, depth) for name in names)
        self._num_containers -= 1
        return options[0] if len(options) == 1 else AnyOf(options)

    def _of_type(self, kind: str, node: JsonObject, where: str, depth: int) -> Schema:
        match kind:
            case "string":
                self._num_pattern_chars += len(str(node.get("pattern", "")))
                if self._num_pattern_chars > MAX_PATTERN_CHARS:
                    raise RequestError(f"{where}: the patterns are over {MAX_PATTERN_CHARS} characters; shorten them")
                return _string(node, where)
            case "integer" | "number":
                return _number(kind, node, where)
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
            ),
            is_closed=extra is False,
        )


def _string(node: JsonObject, where: str) -> String:
    least, most = _count(node, "minLength", where) or 0, _count(node, "maxLength", where)
    pattern = _pattern(node, where)
    if pattern is None:
        return String(least, most)
    shortest, longest = pattern.lengths
    if shortest < least or (most is not None and (longest is None or longest > most)):
        raise RequestError(f"{where}: minLength or maxLength beside a pattern must follow from it; put them into it")
    return String(pattern=pattern)


def _pattern(node: JsonObject, where: str) -> Pattern | None:
    source = node.get("pattern")
    if source is not None and not isinstance(source, str):
        raise RequestError(f"{where}: pattern must be a string; correct it")
    try:
        return None if source is None else read_regex(source)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None


def _number(kind: str, node: JsonObject, where: str) -> Number:
    """The tighter of each side's two bounds."""
    low, above = _bound(node, "minimum", where), _bound(node, "exclusiveMinimum", where)
    high, below = _bound(node, "maximum", where), _bound(node, "exclusiveMaximum", where)
    is_above = above is not None and (low is None or above >= low)
    is_below = below is not None and (high is None or below <= high)
    return Number(kind == "integer", above if is_above else low, below if is_below else high, is_above, is_below)


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
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15):
        return value
    raise RequestError(f"{where}: {keyword} must be a number below 1e15; correct it")

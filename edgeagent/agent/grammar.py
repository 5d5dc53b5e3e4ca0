"""JSON schema to GBNF, llama.cpp's grammar notation: what a model may write so that its answer fits the schema.

The grammar writes one canonical spelling: properties in the schema's order, `", "` and `": "` between parts,
characters raw unless JSON demands an escape. Within that spelling it accepts a document if and only if the
document fits, with these limits: numbers have at most 16 digits on each side of the point (a double holds no
more), bounded repeats stop at `MAX_REPEAT`, and bounded non-integers are written without an exponent (see `decimals`).
"""

import json
import math
from collections.abc import Iterable, Mapping

from edgeagent.agent.decimals import LARGEST, decimals_between, whole_numbers
from edgeagent.agent.language.gbnf import completion
from edgeagent.agent.language.regex import to_json_gbnf
from edgeagent.agent.schema import (
    AnyOf,
    Anything,
    Array,
    JsonValue,
    Literals,
    Map,
    Number,
    Object,
    Recursive,
    Schema,
    String,
)
from edgeagent.agent.schema_reader import read_schema
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError

MAX_REPEAT = 1000  # llama.cpp unrolls a bounded repeat into that many rules
MAX_GRAMMAR_CHARS = 128 * 1024

_INTEGER = '"-"? ("0" | [1-9] [0-9]{0,15})'
_FRACTION = '("." [0-9]{1,16})?'
_SHARED = {
    # Escapes of surrogates are left out: alone they are no character, and pairs can be written raw.
    "char": r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" ([0-9A-CEFa-cef] hex hex hex | [Dd] [0-7] hex hex))',
    "hex": "[0-9A-Fa-f]",
    "any": '"{" (pair (", " pair)*)? "}" | "[" (any (", " any)*)? "]" | string | number | "true" | "false" | "null"',
    "pair": 'string ": " any',
    "string": r'"\"" char* "\""',
    "integer": _INTEGER,
    "number": f"integer {_FRACTION} ([eE] [-+]? [0-9]{{1,2}})?",
}


ANY_OBJECT: JsonObject = {"type": "object"}
"""What `response_format` `json_object` asks for."""


def grammar_for(document: JsonObject) -> str:
    """The GBNF of a JSON schema, root rule `root`. Raises RequestError that names an unsupported keyword."""
    return to_gbnf(read_schema(document))


def answer_grammar(document: JsonObject) -> str:
    """The GBNF of answers to a JSON schema: each of them fits it.

    Raises RequestError for what cannot be promised, also when every document of the schema is endless.
    """
    text = to_gbnf(read_schema(document, is_exact=True))
    if completion(text, "") is None:
        raise RequestError("no document of this schema ends; make a property that contains its own kind optional")
    return text


def to_gbnf(schema: Schema) -> str:
    """The GBNF of a schema tree, root rule `root`. Raises RequestError when it would be too large."""
    writer = _Writer()
    root = writer.expression(schema)
    lines = [f"root ::= {root}", *(f"{name} ::= {body}" for name, body in (_SHARED | writer.rules).items())]
    text = "\n".join(lines) + "\n"
    _check_size(len(text))
    return text


def _check_size(num_chars: int) -> None:
    if num_chars > MAX_GRAMMAR_CHARS:
        raise RequestError(f"the schema makes a grammar of over {MAX_GRAMMAR_CHARS} characters; make it smaller")


def to_gbnf_text(text: str) -> str:
    """The GBNF of exactly this text."""
    return f"root ::= {_quoted(text)}\n"


def spell(value: JsonValue) -> str:
    """`value` in the grammar's own spelling of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class _Writer:
    def __init__(self) -> None:
        self.rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        """Rules by what they say, so that what is said twice is written once."""
        self._defined: dict[str, str] = {}
        self._num_chars = 0

    def expression(self, schema: Schema) -> str:
        match schema:
            case Literals(values):
                return _one_of(_quoted(spell(value)) for value in values)
            case AnyOf(options):
                return _one_of(self.expression(option) for option in options)
            case String():
                return self._string(schema)
            case Number():
                return _number(schema)
            case Array():
                return self._array(schema)
            case Object():
                return self._object(schema)
            case Map(values):
                pair = self._rule(f'string ": " {self.expression(values)}')
                return f'"{{" ({pair} (", " {pair})*)? "}}"'
            case Anything():
                return "any"
            case Recursive(name, definitions):
                return self._definition(name, definitions)

    def _rule(self, body: str) -> str:
        if (known := self._names.get(body)) is not None:
            return known
        self._num_chars += len(body)
        _check_size(self._num_chars)  # before it is all in memory
        name = self._names[body] = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def _definition(self, name: str, definitions: Mapping[str, Schema]) -> str:
        """The rule of a recursive definition: named before it is written, because it contains itself."""
        if name not in self._defined:
            self._defined[name] = rule = f"d{len(self._defined)}"
            self.rules[rule] = self.expression(definitions[name])
        return self._defined[name]

    def _string(self, schema: String) -> str:
        if schema.pattern is not None:
            return self._rule(rf'"\"" {to_json_gbnf(schema.pattern.node)} "\""')
        if schema == String():
            return "string"
        return self._rule(self._bounded_string(schema))

    def _bounded_string(self, schema: String) -> str:
        return rf'"\"" char{_repeat(schema.min_length, schema.max_length)} "\""'

    def _array(self, schema: Array) -> str:
        item = self._rule(self.expression(schema.items))
        if schema.max_items == 0:
            return '"[]"'
        more = _repeat(max(schema.min_items - 1, 0), None if schema.max_items is None else schema.max_items - 1)
        filled = f'{item} (", " {item}){more}'
        return f'"[" {filled} "]"' if schema.min_items else f'"[" ({filled})? "]"'

    def _object(self, schema: Object) -> str:
        """One rule a property for "nothing is written yet", one for "a comma is due": linear, not exponential."""
        first, later = '"}"', '"}"'
        for each in reversed(schema.properties):
            pair = self._rule(f"{_quoted(spell(each.name) + ': ')} {self.expression(each.schema)}")
            begin, follow = f"{pair} {later}", f'", " {pair} {later}'
            if not each.is_required:
                begin, follow = f"{begin} | {first}", f"{follow} | {later}"
            first, later = self._rule(begin), self._rule(follow)
        return f'"{{" {first}'


def _one_of(expressions: Iterable[str]) -> str:
    return f"({' | '.join(dict.fromkeys(expressions))})"


def _quoted(text: str) -> str:
    """`text` as a GBNF terminal; control characters would end or confuse the line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


def _repeat(least: int, most: int | None) -> str:
    if least > MAX_REPEAT or (most is not None and most < least):
        raise RequestError(f"a length between {least} and {most} cannot be met; correct it or stay below {MAX_REPEAT}")
    if most is None:
        return f"{{{least},}}" if least else "*"
    return f"{{{least},{min(most, MAX_REPEAT)}}}"


def _number(schema: Number) -> str:
    if schema.minimum is None and schema.maximum is None:
        return "integer" if schema.is_integer else "number"
    spans = _integers(schema) if schema.is_integer else decimals_between(schema)
    if not spans:
        raise RequestError(f"no number lies between {schema.minimum} and {schema.maximum}; correct the bounds")
    return _one_of(spans)


def _integers(schema: Number) -> list[str]:
    low, high = -LARGEST, LARGEST
    if schema.minimum is not None:
        low = math.floor(schema.minimum) + 1 if schema.is_above else math.ceil(schema.minimum)
    if schema.maximum is not None:
        high = math.ceil(schema.maximum) - 1 if schema.is_below else math.floor(schema.maximum)
    return whole_numbers(low, high)

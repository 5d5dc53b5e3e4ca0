"""Reads the regular expressions of JSON schemas into trees, and writes them as the inside of a JSON string in GBNF.

The part of ECMA 262 that is regular and that other engines read alike: characters, classes, groups, alternatives,
repeats, and `^` and `$` at the ends. `\\d`, `\\w` and `\\s` mean ASCII; their opposites stay within ASCII, too, so that
no engine that reads them as Unicode disagrees. What is left out is refused by name.
"""

import json
from dataclasses import dataclass

from edgeagent.agent.language.machine import Machine
from edgeagent.agent.language.scanner import Scanner
from edgeagent.agent.language.tree import (
    Chain,
    Chars,
    Choice,
    Node,
    Ranges,
    Repeat,
    common,
    complement,
    literal,
    normalized,
)
from edgeagent.core.errors import RequestError

MAX_REGEX_CHARS = 1024
MAX_EXPANDED = 2000
"""Characters and classes after repeats are written out, which is what llama.cpp does with them."""
MAX_DEPTH = 50

_ASCII = ((0, 127),)
_SETS: dict[str, Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_LINE_ENDS = normalized([(10, 10), (13, 13), (0x85, 0x85), (0x2028, 0x2029)])
_DOT = Chars(complement(_LINE_ENDS))
_ANYTHING = Repeat(_DOT, 0, None)
# What a JSON string writes as it is: everything but quotes, backslashes and control characters.
_RAW = complement(normalized([(0, 31), (34, 34), (92, 92)]))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A `pattern` of a schema, as the language of the whole strings that have it."""

    source: str
    node: Node

    def fits(self, text: str) -> bool:
        """In time linear in the text, whatever the expression."""
        return Machine(self.node).read(text).is_word

    @property
    def lengths(self) -> tuple[int, int | None]:
        """Shortest and longest text, in characters; None: as long as one likes."""
        return _lengths(self.node)


def read_regex(source: str) -> Pattern:
    """Raises RequestError that names what is not supported. Not anchored: it may be anywhere in a line."""
    if len(source) > MAX_REGEX_CHARS:
        raise RequestError(f"a pattern of {len(source)} characters is over {MAX_REGEX_CHARS}; shorten it")
    node = _Reader(source).whole()
    if _expanded(node) > MAX_EXPANDED:
        raise RequestError(f"pattern {source!r} repeats too much; keep it below {MAX_EXPANDED} characters written out")
    return Pattern(source, node)


def _lengths(node: Node) -> tuple[int, int | None]:
    match node:
        case Chars():
            return 1, 1
        case Chain(parts):
            least, most = zip(*map(_lengths, parts), strict=True) if parts else ((0,), (0,))
            return sum(least), None if None in most else sum(n for n in most if n is not None)
        case Choice(options):
            least, most = zip(*map(_lengths, options), strict=True)
            return min(least), None if None in most else max(n for n in most if n is not None)
        case Repeat(inner, fewest, times):
            low, high = _lengths(inner)
            endless = high != 0 and (high is None or times is None)
            return low * fewest, None if endless else (high or 0) * (times or 0)
    raise AssertionError("a regular expression has no rules")


def _expanded(node: Node) -> int:
    match node:
        case Chain(parts):
            return sum(map(_expanded, parts)) + 1
        case Choice(options):
            return sum(map(_expanded, options)) + 1
        case Repeat(inner, least, most):
            return (_expanded(inner) + 1) * max(least, most or 1, 1)
    return 1


class _Reader(Scanner):
    def whole(self) -> Node:
        """Alternatives at the top are anchored one by one, as in `^a|b$`."""
        options = [self._anchored()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._anchored())
        if self._at < len(self._text):
            raise self._error("a bracket closes that was not open")
        return Choice(tuple(options))

    def _anchored(self) -> Node:
        begins = self._skip("^")
        parts = self._parts(0)
        ends = self._skip("$")
        return Chain((*([] if begins else [_ANYTHING]), *parts, *([] if ends else [_ANYTHING])))

    def _parts(self, depth: int) -> list[Node]:
        parts: list[Node] = []
        while (char := self._peek()) and char not in "|)$":
            parts.append(self._repeated(self._item(depth)))
        return parts

    def _group(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._error("groups nest too deeply")
        if self._skip("?") and not self._skip(":"):
            raise self._error("only plain and non-capturing groups are supported")
        options = [Chain(tuple(self._parts(depth)))]
        while self._skip("|"):
            options.append(Chain(tuple(self._parts(depth))))
        if not self._skip(")"):
            raise self._error("a group does not end, or has an anchor inside")
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _item(self, depth: int) -> Node:
        char = self._take()
        match char:
            case "(":
                return self._group(depth + 1)
            case "[":
                return self._class()
            case ".":
                return _DOT
            case "\\":
                return Chars(self._escape())
            case "^" | "*" | "+" | "?" | "{":
                raise self._error(f"'{char}' cannot stand here")
        return literal(char)

    def _escape(self) -> Ranges:
        char = self._take()
        if char in _SETS:
            return _SETS[char]
        if char.lower() in _SETS and char.isupper():
            return common(complement(_SETS[char.lower()]), _ASCII)
        if char in _CONTROLS:
            return ((_CONTROLS[char], _CONTROLS[char]),)
        if char in "xu":
            return self._hexadecimal(2 if char == "x" else 4)
        if char.isalnum():
            raise self._error(f"'\\{char}' is not supported")
        return ((ord(char), ord(char)),)

    def _hexadecimal(self, digits: int) -> Ranges:
        text = self._text[self._at : self._at + digits]
        self._at += digits
        if len(text) < digits or not all(c in "0123456789abcdefABCDEF" for c in text):
            raise self._error(f"'{text}' is not {digits} hexadecimal digits")
        return normalized([(int(text, 16), int(text, 16))])

    def _class(self) -> Node:
        is_negated = self._skip("^")
        ranges: list[tuple[int, int]] = []
        has_set = False
        while not self._skip("]"):
            low, is_set = self._class_member()
            has_set |= is_set
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]" and not is_set:
                self._at += 1
                high, is_set = self._class_member()
                if is_set or high[0][0] < low[0][0]:
                    raise self._error("a range in a class is upside down")
                low = ((low[0][0], high[0][0]),)
            ranges += low
        whole = normalized(ranges)
        if is_negated:
            whole = complement(whole) if not has_set else common(complement(whole), _ASCII)
        if not whole:
            raise self._error("a class has no characters")
        return Chars(whole)

    def _class_member(self) -> tuple[Ranges, bool]:
        """A character, or a set of them (then True)."""
        char = self._take()
        if char != "\\":
            return ((ord(char), ord(char)),), False
        if self._skip("b"):
            return ((8, 8),), False
        is_set = self._peek().lower() in _SETS
        return self._escape(), is_set

    def _repeated(self, node: Node) -> Node:
        sign = self._peek()
        if not sign or sign not in "*+?{":
            return node
        self._at += 1
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign) or self._bounds()
        self._skip("?")  # lazy or greedy: the language is the same
        if self._peek() and self._peek() in "*+?{":
            raise self._error("a repeat follows a repeat")
        return Repeat(node, least, most)

    def _bounds(self) -> tuple[int, int | None]:
        inside, mark, _ = self._text[self._at :].partition("}")
        self._at += len(inside) + 1
        least, comma, most = inside.partition(",")
        if not mark or not least.isdecimal() or not (most.isdecimal() or most == ""):
            raise self._error("'{' must begin a number of repeats; write '\\{' for the character")
        high = int(most) if most else None if comma else int(least)
        if high is not None and high < int(least):
            raise self._error("a repeat's bounds are upside down")
        return int(least), high

    def _skip(self, char: str) -> bool:
        found = self._peek() == char
        self._at += found
        return found

    def _error(self, what: str) -> RequestError:
        return RequestError(f"pattern {self._text!r} at character {self._at}: {what}; change the pattern")


def to_json_gbnf(node: Node) -> str:
    """GBNF of the language's texts as they stand between the quotes of a JSON string, in its shortest spelling."""
    match node:
        case Chars(ranges):
            return _spelled(ranges)
        case Chain(parts):
            return f"({' '.join(map(to_json_gbnf, parts))})" if parts else '""'
        case Choice(options):
            return f"({' | '.join(map(to_json_gbnf, options))})"
        case Repeat(inner, least, most):
            return f"{to_json_gbnf(inner)}{_times(least, most)}"
    raise AssertionError("a regular expression has no rules")


def _spelled(ranges: Ranges) -> str:
    raw = common(ranges, _RAW)
    options = [f"[{''.join(_class_part(*each) for each in raw)}]"] if raw else []
    for low, high in common(ranges, complement(_RAW)):
        options += [_quoted(json.dumps(chr(code))[1:-1]) for code in range(low, high + 1)]
    return f"({' | '.join(options)})" if len(options) != 1 else options[0]


def _class_part(low: int, high: int) -> str:
    first, last = (c if c.isascii() and c.isalnum() else f"\\U{ord(c):08X}" for c in (chr(low), chr(high)))
    return first if low == high else f"{first}-{last}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _times(least: int, most: int | None) -> str:
    if most is None:
        return f"{{{least},}}" if least > 1 else "+" if least else "*"
    return "?" if (least, most) == (0, 1) else f"{{{least},{most}}}"

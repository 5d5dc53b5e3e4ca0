"""Reads GBNF, llama.cpp's grammar notation, into a tree.

After https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md, without its token literals.
"""

from edgeagent.agent.language.machine import Machine
from edgeagent.agent.language.scanner import Scanner
from edgeagent.agent.language.tree import (
    LAST,
    Chain,
    Chars,
    Choice,
    Node,
    Repeat,
    Rule,
    complement,
    literal,
    normalized,
)
from edgeagent.core.errors import RequestError

MAX_DEPTH = 200
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def completion(grammar: str, text: str) -> str | None:
    """The shortest text that makes `text` a word of the grammar's rule `root`; None when nothing does.

    Raises RequestError for a grammar that cannot be read.
    """
    rules = read_gbnf(grammar)
    if "root" not in rules:
        raise RequestError("the grammar has no rule named 'root'; add it")
    return Machine(Rule("root"), rules).read(text).completion()


def read_gbnf(text: str) -> dict[str, Node]:
    """Rules by name."""
    reader = _Reader(text)
    rules: dict[str, Node] = {}
    while reader.skip_space(lines=True):
        name = reader.name()
        reader.skip_space(lines=True)
        reader.expect("::=")
        rules[name] = reader.choice(0, nested=False)
    return rules


class _Reader(Scanner):
    def skip_space(self, *, lines: bool) -> bool:
        """To the next thing that says something; whether there is one. Line ends count as space only with `lines`."""
        space = " \t\r\n" if lines else " \t"
        while self._at < len(self._text):
            if self._peek() == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._peek() in space:
                self._at += 1
            else:
                return True
        return False

    def expect(self, wanted: str) -> None:
        if not self._text.startswith(wanted, self._at):
            raise self._error(f"'{wanted}' is missing")
        self._at += len(wanted)

    def name(self) -> str:
        begin = self._at
        while (char := self._peek()) and (char.isalnum() or char in "-_"):
            self._at += 1
        if begin == self._at:
            raise self._error("a rule's name is missing")
        return self._text[begin : self._at]

    def choice(self, depth: int, *, nested: bool) -> Node:
        if depth > MAX_DEPTH:
            raise self._error("brackets nest too deeply")
        options = [self._chain(depth, nested=nested)]
        while self._peek() == "|":
            self._at += 1
            self.skip_space(lines=True)
            options.append(self._chain(depth, nested=nested))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _chain(self, depth: int, *, nested: bool) -> Node:
        parts: list[Node] = []
        while self.skip_space(lines=nested) and self._peek() not in "|)\n\r":
            parts.append(self._repeated(self._item(depth)))
        return parts[0] if len(parts) == 1 else Chain(tuple(parts))

    def _item(self, depth: int) -> Node:
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                return self._class()
            case "(":
                self._at += 1
                inner = self.choice(depth + 1, nested=True)
                self.expect(")")
                return inner
            case ".":
                self._at += 1
                return Chars(normalized([(0, LAST)]))
            case _:
                return Rule(self.name())

    def _literal(self) -> Node:
        self.expect('"')
        chars: list[str] = []
        while self._peek() != '"':
            chars.append(self._char())
        self._at += 1
        return literal("".join(chars))

    def _class(self) -> Node:
        self.expect("[")
        is_negated = self._peek() == "^"
        self._at += is_negated
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]":
            low = high = ord(self._char())
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = ord(self._char())
            ranges.append((low, high))
        self._at += 1
        whole = normalized(ranges)
        return Chars(complement(whole) if is_negated else whole)

    def _char(self) -> str:
        char = self._take()
        if char != "\\":
            return char
        kind = self._take()
        if kind not in _HEX_DIGITS:
            return _ESCAPES.get(kind, kind)
        digits = self._text[self._at : self._at + _HEX_DIGITS[kind]]
        self._at += _HEX_DIGITS[kind]
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise self._error(f"'\\{kind}{digits}' is no character") from None

    def _repeated(self, node: Node) -> Node:
        while (sign := self._peek()) and sign in "*+?{":
            self._at += 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(sign) or self._bounds()
            node = Repeat(node, least, most)
        return node

    def _bounds(self) -> tuple[int, int | None]:
        inside, mark, _ = self._text[self._at : self._at + 32].partition("}")
        self._at += len(inside) + 1
        least, comma, most = (part.strip() for part in inside.partition(","))
        try:
            return int(least), int(most) if most else None if comma else int(least)
        except ValueError:
            raise self._error(f"'{{{inside[:20]}{mark}' is no number of repeats") from None

    def _error(self, what: str) -> RequestError:
        return RequestError(f"the grammar cannot be read at character {self._at}: {what}; correct it")

"""Text as units that can be kept or dropped one by one: sentences, headings, lists, tables, code blocks, and the turns
of a conversation. Pure.

Every pattern is possessive and every line is looked at once, so the time is linear in the text, whatever it holds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

MAX_UNIT_CHARS = 1000
"""A paragraph, list or table without sentence ends falls apart at its line ends beyond this length."""

_FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)")
_ITEM = re.compile(r"\s*+(?:[-*+•]|\d{1,9}[.)])\s")
_FIRST_ITEM = re.compile(
    r"\s*+(?:[-*+•]|1[.)])\s"
)  # only these may interrupt a paragraph: `2024. ` may be a wrapped year
_HEADING = re.compile(r" {0,3}#{1,6}\s")
_STAMP = r"(?:\[?\d[\d :./,T-]{3,22}Z?(?: ?[AaPp]\.?[Mm]\.?)?\]?[ ,]*(?:- )?)?"
_NAMED = r"(?P<name>[^\W\d_][\w.'\u2019-]*(?: [^\W\d_][\w.'\u2019-]*){0,2})"
SPEAKER = re.compile(rf"{_NAMED}: (?=\S)")
TURN = re.compile(rf"(?P<stamp>{_STAMP})(?:<(?P<nick>[^<>\s]{{1,32}})> |{_NAMED}: )(?=\S)")
"""`Name: words`, `[12:03] Name: words`, `2024-01-02 12:03 - Name: words` and `<nick> words`."""
MIN_TURNS, MIN_TURN_SHARE = 3, 1 / 3
"""Lines that begin a turn, at least, and of all lines, for a text to be a conversation."""

_WIDE_ENDS = "\u3002\uff01\uff1f"  # the ideographic full stop, the full-width ! and ?
_CLOSERS = "\"')\\]\u2019\u201d\u00bb\u300d\u300f\uff09"  # quotes and brackets that belong to the sentence they end
_SENTENCE_END = re.compile(
    rf"(?<![.!?…])[.!?…]++[{_CLOSERS}]*+\s++"  # followed by space, so that 3.14 and a.b stay whole
    rf"|(?<![{_WIDE_ENDS}])[{_WIDE_ENDS}]++[{_CLOSERS}]*+\s*+"
)
_ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "fig", "approx", "inc", "ltd", "jr", "sr", "al")
)


class _Kind(Enum):
    TEXT = auto()
    HEADING = auto()
    LIST = auto()
    TABLE = auto()
    CODE = auto()


def split_sentences(text: str) -> tuple[str, ...]:
    """The units of `text` in order; each keeps the white space behind it, so joined they are `text` again."""
    if is_conversation(text):
        return tuple(part for turn in turns_of(text) for part in _bounded(turn))
    units = [unit for block in _blocks(text) for unit in block.units()]
    if len(units) > 1 and not units[0].strip():
        units[:2] = [units[0] + units[1]]
    return tuple(units)


def is_conversation(text: str) -> bool:
    """Whether the text is a log of turns: enough of its lines begin with who speaks."""
    lines = [line for line in text.splitlines() if line.strip()]
    turns = sum(1 for line in lines if TURN.match(line))
    return turns >= MIN_TURNS and turns >= MIN_TURN_SHARE * len(lines)


def turns_of(text: str) -> Iterator[str]:
    """A conversation's turns, each with the lines behind it that begin no other; joined they are the text again."""
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        if TURN.match(line) and any(each.strip() for each in lines):
            yield "".join(lines)
            lines = []
        lines.append(line)
    if lines:
        yield "".join(lines)


def _bounded(turn: str) -> Iterator[str]:
    if len(turn) <= MAX_UNIT_CHARS:
        yield turn
        return
    for sentence in _sentences(turn):
        yield from _lines(sentence) if len(sentence) > MAX_UNIT_CHARS else [sentence]


@dataclass(slots=True)
class _Block:
    """Lines that belong together, and the blank lines behind them."""

    kind: _Kind
    lines: list[str] = field(default_factory=list)
    fence: str = ""
    """What closes a code block; empty once it is closed."""
    ends_blank: bool = False

    @classmethod
    def begin(cls, line: str) -> "_Block":
        found = _FENCE.match(line)
        return cls(_kind_of(line), [line], fence=found[1] if found else "", ends_blank=not line.strip())

    def accept(self, line: str) -> bool:
        """Take the line if it belongs here."""
        is_blank = not line.strip()
        if not (is_blank or self.fence or self._continues_with(line)):
            return False
        if self.fence and line.strip().startswith(self.fence):
            self.fence = ""
        self.lines.append(line)
        self.ends_blank = is_blank
        return True

    def _continues_with(self, line: str) -> bool:
        kind = _kind_of(line)
        if self.kind is _Kind.LIST:
            return kind is _Kind.LIST or line[0].isspace() or (kind is _Kind.TEXT and not self.ends_blank)
        if self.kind is _Kind.TEXT and kind is _Kind.LIST:
            return not self.ends_blank and not _FIRST_ITEM.match(line)
        return kind is self.kind and kind in (_Kind.TEXT, _Kind.TABLE) and not self.ends_blank

    def units(self) -> Iterator[str]:
        text = "".join(self.lines)
        for unit in _sentences(text) if self.kind is _Kind.TEXT else [text]:
            if len(unit) > MAX_UNIT_CHARS and self.kind is not _Kind.CODE:
                yield from _lines(unit)
            else:
                yield unit


def _blocks(text: str) -> Iterator[_Block]:
    block: _Block | None = None
    for line in text.splitlines(keepends=True):
        if block is None or not block.accept(line):
            if block is not None:
                yield block
            block = _Block.begin(line)
    if block is not None:
        yield block


def _kind_of(line: str) -> _Kind:
    if _FENCE.match(line):
        return _Kind.CODE
    if _HEADING.match(line):
        return _Kind.HEADING
    if line.lstrip().startswith("|"):
        return _Kind.TABLE
    return _Kind.LIST if _ITEM.match(line) else _Kind.TEXT


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        if end.end() < len(paragraph) and _is_boundary(paragraph, start, end):
            yield paragraph[start : end.end()]
            start = end.end()
    yield paragraph[start:]


def _is_boundary(paragraph: str, start: int, end: re.Match[str]) -> bool:
    if end[0][0] in _WIDE_ENDS:
        return True
    if paragraph[end.end()].islower():
        return False
    before = paragraph[max(start, end.start() - 12) : end.start()].split()
    word = before[-1].lstrip("(\"'“") if before else ""
    is_initial = len(word) == 1 and word.isupper() and word != "I"
    return not (end[0][0] == "." and (is_initial or word.casefold() in _ABBREVIATIONS))


def _lines(text: str) -> Iterator[str]:
    """Line by line; blank lines stay with the line before them."""
    lines: list[str] = []
    has_words = False
    for line in text.splitlines(keepends=True):
        is_blank = not line.strip()
        if has_words and not is_blank:
            yield "".join(lines)
            lines.clear()
        has_words = has_words or not is_blank
        lines.append(line)
    yield "".join(lines)

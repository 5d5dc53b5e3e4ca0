"""Cuts an instruction text into lines and says which of them could stand elsewhere and still be understood. Pure."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

_BULLET = re.compile(r"[-*+•]\s+")
_NUMBERED = re.compile(r"\d{1,3}[.)]\s")
_ENTITY = re.compile(r"([a-z_]\w*\.\w+)(?=[\s,:=|;]+\S)")
_CSV = re.compile(r"([^\s,|]{1,64}),(?=\S)")
_PAIR = re.compile(r"([^:=]{1,80}?)\s*(?::\s|=)\s*\S")
_RULE = re.compile(r"\|[\s|:-]+$")
_OPENING = re.compile(r"```|~~~|\"\"\"|'''")
_TAG = re.compile(r"<([A-Za-z][\w.-]*)[^<>]*(?<!/)>$")
_END_TAG = re.compile(r"</([A-Za-z][\w.-]*)>")
_HEADER_WORDS = frozenset(
    {
        "aliases",
        "area",
        "attributes",
        "device",
        "domain",
        "entity",
        "entity_id",
        "id",
        "name",
        "sensor",
        "state",
        "value",
    }
)
_SENTENCE_ENDS = tuple(".!?:;…。।؟")
_PROSE_KEY_WORDS = 3
_MAX_KEY_SPAN = 256
"""Characters of a line in which its key is looked for."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line, word for word, without its line end.

    `identity` is what stays when the value in the line changes; None for a line that only its place explains.
    `under` are the lines above it that tell what it belongs to: heading, table header, parents by indentation.
    """

    text: str
    identity: tuple[str, ...] | None = None
    under: tuple[str, ...] = ()


def read_rows(text: str) -> tuple[Row, ...]:
    """The lines of `text`, in order; joined by line feeds they are `text` again.

    A line has an identity only if no other one has the same.
    """
    lines = text.split("\n")
    quoted = list(_quoted(lines))
    rows = list(_Reader(lines, quoted).rows())
    seen = Counter(row.identity for row in rows)
    return tuple(row if seen[row.identity] == 1 else replace(row, identity=None) for row in rows)


def _masked(line: str) -> str:
    return re.sub(r"\d+", "#", line)


def _quoted(lines: Sequence[str]) -> Iterator[bool]:
    """Which lines are of code, JSON, a tagged or a cited block: nothing leaves these."""
    ends = {name: index for index, line in enumerate(lines) for name in _END_TAG.findall(line)}
    close, depth = "", 0
    for index, line in enumerate(lines):
        text = line.strip()
        if close:
            close = "" if close in text else close
            yield True
        elif opening := _OPENING.match(text):
            close = "" if opening[0] in text[3:] else opening[0]
            yield True
        elif (tag := _TAG.match(text)) and ends.get(tag[1], 0) > index:
            close = f"</{tag[1]}>"
            yield True
        elif depth or text.startswith(("{", "[")):
            depth = max(0, depth + sum(text.count(c) for c in "{[") - sum(text.count(c) for c in "}]"))
            yield True
        else:
            yield text.startswith(">")


class _Reader:
    def __init__(self, lines: Sequence[str], quoted: Sequence[bool]) -> None:
        self._lines = lines
        self._quoted = quoted
        self._title = ""
        self._label = ""
        self._is_label_used = False
        self._header = ""
        self._parents: list[tuple[int, str]] = []

    def rows(self) -> Iterator[Row]:
        for index, line in enumerate(self._lines):
            if not line.strip():
                self._end_paragraph()
                yield Row(line)
            elif self._quoted[index]:
                self._header = ""
                yield Row(line)
            else:
                yield self._row(index, line)

    def _end_paragraph(self) -> None:
        self._header, self._parents = "", []
        if self._is_label_used:
            self._label, self._is_label_used = "", False

    def _row(self, index: int, line: str) -> Row:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        while self._parents and self._parents[-1][0] >= indent:
            self._parents.pop()
        if self._is_heading(text, indent) or self._is_header(index, text):
            return Row(line)
        under = (*filter(None, (self._title, self._label, self._header)), *(parent for _, parent in self._parents))
        self._parents.append((indent, line))
        self._is_label_used = True
        has_children = index + 1 < len(self._lines) and _indent(self._lines[index + 1]) > indent
        key = None if has_children else self._key(index, text, indent)
        return Row(line, None if key is None else (*map(_masked, under), key), under)

    def _is_heading(self, text: str, indent: int) -> bool:
        if text.startswith("#"):
            self._title, self._label, self._header = text, "", ""
        elif indent == 0 and normalize("NFKC", text).endswith(":"):
            self._label, self._is_label_used, self._header = text, False, ""
        else:
            return False
        return True

    def _is_header(self, index: int, text: str) -> bool:
        """The first row of a table names its columns; the ruler under it is part of it."""
        is_table = text.startswith("|") or bool(_CSV.match(text))
        if not is_table:
            self._header = ""
            return False
        if _RULE.match(text):
            return True
        is_first = index == 0 or not self._lines[index - 1].strip() or not self._header
        if is_first and (text.startswith("|") or _HEADER_WORDS.intersection(text.casefold().split(","))):
            self._header = text
            return True
        return False

    def _key(self, index: int, text: str, indent: int) -> str | None:
        bullet = _BULLET.match(text)
        body = (text[bullet.end() :] if bullet else text)[:_MAX_KEY_SPAN]
        if _NUMBERED.match(body):
            return None
        if body.startswith("|"):
            return body.split("|")[1].strip() or None
        for pattern in (_ENTITY, _CSV, _PAIR):
            if found := pattern.match(body):
                return found[1]
        return None if bullet or indent else self._prose_key(index, text)

    def _prose_key(self, index: int, text: str) -> str | None:
        """The first words of a sentence that has its line for itself; None for a line of running text."""
        before = self._lines[index - 1].strip() if index else ""
        after = self._lines[index + 1].strip() if index + 1 < len(self._lines) else ""
        starts = not before or before.endswith(_SENTENCE_ENDS)
        ends = not after or text.endswith(_SENTENCE_ENDS)
        words = text.split()
        if not starts or not ends or text[0].islower() or text[0] in "({[\"'" or len(words) < 2:
            return None
        return _masked(" ".join(words[: min(_PROSE_KEY_WORDS, len(words) - 1)]))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else 0

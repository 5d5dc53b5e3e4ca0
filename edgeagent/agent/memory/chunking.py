"""Documents as memories: chunks of whole sentences that an embedding sees in full. Pure, linear in the text.

Structure is kept: a section begins a chunk of its own and its further chunks repeat the headings above them; a turn of
a conversation is one memory; paragraphs and list items are not cut where a chunk can end between them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from edgeagent.model.sentences import TURN, is_conversation, split_sentences, turns_of

MAX_CHUNK_CHARS = 690
"""An ASCII character counts as one, any other as three (WordPiece may make it a token of its own).

At three characters a token these are 230 tokens, below the 256 after which the embedding model cuts.
"""
MAX_PATH_CHARS = 120
"""Of the headings in front of a chunk; of longer ones the innermost stay."""
FULL_SHARE = 0.6
"""A chunk filled so far ends with its paragraph."""
SEPARATOR = " > "

_HEADING = re.compile(r" {0,3}(?P<marks>#{1,6})\s+(?P<title>.*?)\s*#*\s*$", re.DOTALL)
_DATES = (
    "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%d.%m.%Y, %H:%M", "%d.%m.%Y %H:%M",
)  # fmt: skip
"""Only forms that cannot be read in two ways: 3/4/2024 is no date anybody can be sure of."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a document. `path`: the headings above it that it does not hold itself."""

    text: str
    path: str = ""
    is_turn: bool = False
    said_at: float | None = None
    """Unix seconds that a turn's log gives; a time without a zone is taken for UTC."""

    @property
    def stored(self) -> str:
        """What is remembered."""
        return f"{self.path}\n{self.text}" if self.path else self.text


def pieces(text: str) -> list[Piece]:
    """The parts in order, none blank; their texts lack nothing of the document but white space (and a log's times)."""
    if is_conversation(text):
        return [piece for turn in turns_of(text) for piece in _of_turn(turn)]
    return list(_of_sections(text))


def weight(text: str) -> int:
    """Characters, each outside ASCII counted three times."""
    return len(text) if text.isascii() else len(text) + 2 * sum(not c.isascii() for c in text)


def _of_turn(turn: str) -> Iterator[Piece]:
    """A turn is one memory; a long one goes on under the same speaker."""
    found = TURN.match(turn)
    if found is None:  # what a log begins with
        yield from _of_sections(turn)
        return
    name = found["name"] or found["nick"]
    said_at = _time_of(found["stamp"])
    for part in _chunks(split_sentences(turn[found.end() :]), MAX_CHUNK_CHARS - weight(name) - 2):
        yield Piece(f"{name}: {part}", is_turn=True, said_at=said_at)


def _time_of(stamp: str) -> float | None:
    told = stamp.strip().strip("[],- ").rstrip("Z")
    for form in _DATES:
        try:
            return datetime.strptime(told, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    return None


def _of_sections(text: str) -> Iterator[Piece]:
    """Chunks of each section; sections without a word of their own go with the next."""
    headings: list[tuple[int, str]] = []
    units: list[str] = []
    for unit in split_sentences(text):
        if found := _HEADING.match(unit):
            if any(not _HEADING.match(each) for each in units):
                yield from _of_section(units, headings)
                units = []
            level = len(found["marks"])
            headings = [*(h for h in headings if h[0] < level), (level, " ".join(found["title"].split()))]
        units.append(unit)
    yield from _of_section(units, headings)


def _of_section(units: list[str], headings: list[tuple[int, str]]) -> Iterator[Piece]:
    """The first chunk holds its own headings, and repeats those above."""
    own = {" ".join(found["title"].split()) for unit in units if (found := _HEADING.match(unit))}
    whole, outer = _path([t for _, t in headings]), _path([title for _, title in headings if title not in own])
    room = MAX_CHUNK_CHARS - (weight(whole) + 1 if whole else 0)
    for i, part in enumerate(_chunks(units, room)):
        yield Piece(part, whole if i else outer)


def _path(titles: list[str]) -> str:
    while titles and weight(SEPARATOR.join(titles)) > MAX_PATH_CHARS:
        titles = titles[1:]
    return SEPARATOR.join(titles)


def _chunks(units: "list[str] | tuple[str, ...]", limit: int) -> list[str]:
    chunks: list[str] = []
    parts: list[str] = []
    room = limit
    for piece in (piece for unit in units for piece in _pieces(unit, limit)):
        size = weight(piece.rstrip())
        if size > room or (parts and room < (1 - FULL_SHARE) * limit and "\n\n" in parts[-1]):
            chunks.append("".join(parts))
            parts, room = [], limit
        parts.append(piece)
        room -= weight(piece)
    chunks.append("".join(parts))
    return [stripped for text in chunks if (stripped := text.strip())]


def _pieces(unit: str, limit: int) -> Iterator[str]:
    """The unit, or parts of it that fit a chunk, cut behind white space where there is any, at a line's end at best."""
    start = 0
    while (end := _longest_fit(unit, start, limit)) < len(unit):
        line, space = unit.rfind("\n", start, end) + 1, unit.rfind(" ", start, end) + 1
        cut = line if line > start + (end - start) // 2 else max(line, space)
        yield unit[start : cut or end]
        start = cut or end
    yield unit[start:]


def _longest_fit(text: str, start: int, limit: int) -> int:
    """The end of the longest part from `start` that fits a chunk."""
    room = limit
    for end in range(start, min(len(text), start + limit + 1)):
        room -= 1 if text[end].isascii() else 3
        if room < 0:
            return end
    return len(text)

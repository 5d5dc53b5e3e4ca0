"""Documents as memories: chunks of whole sentences that an embedding sees in full. Pure, linear in the text."""

from collections.abc import Iterator

from edgeagent.model.sentences import split_sentences

MAX_CHUNK_CHARS = 690
"""An ASCII character counts as one, any other as three (WordPiece may make it a token of its own).

At three characters a token these are 230 tokens, below the 256 after which the embedding model cuts.
"""


def chunk(text: str) -> list[str]:
    """Chunks in order, none blank, each of `weight` at most MAX_CHUNK_CHARS. Only white space is lost."""
    chunks: list[str] = []
    parts: list[str] = []
    room = MAX_CHUNK_CHARS
    for piece in (piece for unit in split_sentences(text) for piece in _pieces(unit)):
        size = weight(piece.rstrip())
        if size > room:
            chunks.append("".join(parts))
            parts, room = [], MAX_CHUNK_CHARS
        parts.append(piece)
        room -= weight(piece)
    chunks.append("".join(parts))
    return [stripped for text in chunks if (stripped := text.strip())]


def weight(text: str) -> int:
    """Characters, each outside ASCII counted three times."""
    return len(text) if text.isascii() else len(text) + 2 * sum(not c.isascii() for c in text)


def _pieces(unit: str) -> Iterator[str]:
    """The unit, or parts of it that fit a chunk, cut behind white space where there is any."""
    start = 0
    while (end := _longest_fit(unit, start)) < len(unit):
        space = max(unit.rfind(" ", start, end), unit.rfind("\n", start, end)) + 1
        yield unit[start : space or end]
        start = space or end
    yield unit[start:]


def _longest_fit(text: str, start: int) -> int:
    """The end of the longest part from `start` that fits a chunk."""
    room = MAX_CHUNK_CHARS
    for end in range(start, min(len(text), start + MAX_CHUNK_CHARS + 1)):
        room -= 1 if text[end].isascii() else 3
        if room < 0:
            return end
    return len(text)

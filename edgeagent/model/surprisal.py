"""Surprisal of words and sentences, from that of tokens; kept in one byte a word. Pure."""

from collections.abc import Sequence

from edgeagent.model.wording import words

STEPS_PER_BIT = 8
UNKNOWN_BITS = 255 / STEPS_PER_BIT
"""Of a word that nothing comes before, or that was not measured: the highest, so that it stays."""


def of_words(text: str, tokens: Sequence[tuple[int, float | None]]) -> list[float]:
    """Bits of each of a text's words (`wording.words`): the sum over the tokens that begin in it.

    `tokens`: bytes and bits of each, in order. White space in front of a word belongs to it, as tokens have it.
    """
    ends: list[int] = []
    end = 0
    for word in words(text):
        end += len(word.text.encode(errors="replace"))
        ends.append(end)
    starts = _starts(text, ends)
    bits = [0.0] * len(ends)
    measured = [False] * len(ends)
    place = at = 0
    for size, told in tokens:
        while place < len(ends) and at >= starts[place + 1]:
            place += 1
        if place < len(ends):
            bits[place] += UNKNOWN_BITS if told is None else told
            measured[place] = True
        at += size
    return [min(value, UNKNOWN_BITS) if known else UNKNOWN_BITS for value, known in zip(bits, measured, strict=True)]


def _starts(text: str, ends: Sequence[int]) -> list[int]:
    """Where each word's tokens begin: at the white space before it. One more at the end, beyond all."""
    starts = [0]
    begin = 0
    raw = text.encode(errors="replace")
    for end in ends[:-1]:
        part = raw[begin:end]
        starts.append(begin + len(part.rstrip()))
        begin = end
    return [*starts, len(raw) + 1]


def packed(bits: Sequence[float]) -> bytes:
    """One byte a word, in eighths of a bit."""
    return bytes(max(0, min(255, round(value * STEPS_PER_BIT))) for value in bits)


def unpacked(data: bytes) -> tuple[float, ...]:
    return tuple(value / STEPS_PER_BIT for value in data)

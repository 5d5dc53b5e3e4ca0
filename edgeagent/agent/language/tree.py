"""A context-free language as a tree. Characters are Unicode code points, never surrogates."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points, first and last of each run, both included; in order, apart from each other."""
LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)


@dataclass(frozen=True, slots=True, eq=False)
class Chars:
    """One character of these."""

    ranges: Ranges

    def __contains__(self, char: str) -> bool:
        return any(low <= ord(char) <= high for low, high in self.ranges)


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """All of these, one after the other; none of them: the empty text."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    options: tuple["Node", ...]


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """Between `least` and `most` times; None is without end."""

    node: "Node"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """What the rule of that name allows."""

    name: str


Node: TypeAlias = Chars | Chain | Choice | Repeat | Rule


def normalized(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same code points, in order, joined where they touch, without surrogates."""
    whole: list[tuple[int, int]] = []
    for low, high in sorted(_without_surrogates(ranges)):
        if whole and low <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(whole[-1][1], high))
        else:
            whole.append((low, high))
    return tuple(whole)


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    first, last = SURROGATES
    for low, high in ranges:
        for part in ((low, min(high, first - 1)), (max(low, last + 1), high)):
            if part[0] <= part[1]:
                yield part


def complement(ranges: Ranges, last: int = LAST) -> Ranges:
    """Every other code point up to `last`."""
    gaps, begin = [], 0
    for low, high in ranges:
        gaps.append((begin, low - 1))
        begin = high + 1
    gaps.append((begin, last))
    return normalized(gap for gap in gaps if gap[0] <= gap[1])


def common(one: Ranges, other: Ranges) -> Ranges:
    """The code points of both."""
    shared = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return normalized((low, high) for low, high in shared if low <= high)


def literal(text: str) -> Node:
    """Exactly this text."""
    chars = tuple(Chars(((ord(c), ord(c)),)) for c in text)
    return chars[0] if len(chars) == 1 else Chain(chars)

"""Reduction level L1: what is said twice is read once. Pure.

Exact repeats go, then sentences that differ in a word or so, then those whose whole content another sentence has. No
sentence goes that holds a name, a number or a negation which the one that stays lacks.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from edgeagent.core.plan import ReductionLevel
from edgeagent.model.reduction import DUPLICATE, Selection, Sentence, selection_without
from edgeagent.model.wording import OPENERS, bare, denies, facts

NEAR = "nearly the same as another sentence"
MERGED = "all that it says stands in another sentence"

NEAR_SHARE = 0.85
"""Words that two sentences share, of all that either has (Jaccard)."""
CONTAINED_SHARE = 0.9
"""Telling words of a sentence that stand in the one that takes it up."""
MIN_WORDS = 4
"""Shorter sentences ("Yes, please.") mean what stands around them: only exact repeats of those go."""
NUM_RAREST = 3
"""Sentences are compared when they share one of so many of their rarest words: linear where words are spread."""
MAX_HOLDERS = 64


@dataclass(frozen=True, slots=True)
class _Said:
    """What a sentence is compared by."""

    words: frozenset[str]
    telling: frozenset[str]
    facts: frozenset[str]
    is_prose: bool


def without_repeats(sentences: Sequence[Sentence]) -> Selection:
    """All but the repeats; protected sentences stay, and others give way to them."""
    return selection_without(sentences, repeated(sentences), ReductionLevel.L1)


def repeated(sentences: Sequence[Sentence]) -> dict[int, str]:
    """Why each sentence that need not be read again may go, by index."""
    said = [_said(sentence.text) for sentence in sentences]
    gone: dict[int, str] = dict.fromkeys(_exact(sentences), DUPLICATE)
    for i, j in _pairs(said, gone):
        if i not in gone and j not in gone and (found := _lesser(sentences, said, i, j)):
            gone[found[0]] = found[1]
    return gone


def _exact(sentences: Sequence[Sentence]) -> Iterator[int]:
    """Sentences whose words stand in a protected or an earlier one."""
    seen = {key for s in sentences if s.protected and (key := _key(s.text))}
    for i, sentence in enumerate(sentences):
        if sentence.protected or _is_heading(sentence.text) or not (key := _key(sentence.text)):
            continue
        if key in seen:
            yield i
        seen.add(key)


def _key(text: str) -> str:
    return " ".join(text.split())


def _is_heading(text: str) -> bool:
    """The same heading over two parts says where each part begins."""
    return text.lstrip().startswith("#")


def _said(text: str) -> _Said:
    found = frozenset(plain for word in text.split() if (plain := bare(word)))
    is_prose = len(found) >= MIN_WORDS and not text.lstrip().startswith(("#", "|", "```", "~~~"))
    return _Said(found, found - OPENERS, facts(text), is_prose)


def _pairs(said: Sequence[_Said], gone: Container[int]) -> Iterator[tuple[int, int]]:
    """Sentences that may say the same, the earlier one first; a pair may come twice."""
    counts = Counter(word for one in said for word in one.telling)
    compared = [i for i, one in enumerate(said) if one.is_prose and i not in gone]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for i in compared:
        for word in said[i].telling:
            if len(holders[word]) < MAX_HOLDERS:
                holders[word].append(i)
    for i in compared:
        rarest = sorted(said[i].telling, key=lambda word: (counts[word], word))[:NUM_RAREST]
        for j in sorted({j for word in rarest for j in holders[word] if i != j}):
            yield min(i, j), max(i, j)


def _lesser(sentences: Sequence[Sentence], said: Sequence[_Said], i: int, j: int) -> tuple[int, str] | None:
    """Which of two sentences can go, and why."""
    a, b = said[i], said[j]
    common = len(a.words & b.words)
    most, fewest = max(len(a.words), len(b.words)), min(len(a.telling), len(b.telling))
    if common < min(NEAR_SHARE * most, CONTAINED_SHARE * fewest):  # neither can be: nearly all pairs
        return None
    share = common / (len(a.words) + len(b.words) - common)
    for lost, kept in ((j, i), (i, j)):
        one, other = said[lost], said[kept]
        if sentences[lost].protected or not one.facts <= other.words or _denied(one) != _denied(other):
            continue
        if share >= NEAR_SHARE and other.facts <= one.words:
            return lost, NEAR
        if len(one.telling) < len(other.telling) and _is_contained(one, other):
            return lost, MERGED
    return None


def _denied(said: _Said) -> frozenset[str]:
    return frozenset(word for word in said.words if denies(word))


def _is_contained(one: _Said, other: _Said) -> bool:
    return bool(one.telling) and len(one.telling & other.telling) >= CONTAINED_SHARE * len(one.telling)

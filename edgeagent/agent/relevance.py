"""How likely each unit of a text holds what a question asks for: recall's learned score, without a database. Pure.

The same features and weights as recall's (`agent/memory/features.py`): words, nearness, neighbours, who speaks, what
kind of thing is asked for. What a text does not have (times) counts for nothing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeagent.agent.memory.cues import Wish, cues_of, named_in, speaker_of, spoken, wishes_of, without_names
from edgeagent.agent.memory.features import Asked, Entry, Features, Lexicon
from edgeagent.agent.memory.scoring import Scorer

MIN_SPOKEN = 3
"""Units that begin with `Name: ` before it is taken for somebody who speaks: "Note: " may stand once or twice."""

Stems = Callable[[str], list[str]]
"""The telling words of a text, stemmed."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A sentence, a turn, a list: what is kept or dropped as one."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Matter:
    """A question and units as they are embedded: nearness is of what is said, not of who says it."""

    question: str
    units: tuple[str, ...]


def matter(question: str, units: Sequence[Unit]) -> Matter:
    names = _speakers(units)
    said = (spoken(unit.text) if speaker_of(unit.text) in names else unit.text for unit in units)
    return Matter(without_names(question, names), tuple(text.strip() or text for text in said))


def _speakers(units: Sequence[Unit]) -> list[str]:
    counts = Counter(name for unit in units if (name := speaker_of(unit.text)))
    return [name for name, count in counts.items() if count >= MIN_SPOKEN]


def relevance(
    question: str, units: Sequence[Unit], cosines: Sequence[float], stems: Stems, scorer: Scorer
) -> list[float]:
    """A score in 0..1 for each unit. `cosines` are those of the texts that `matter` gives to its question."""
    numbers = {name: number for number, name in enumerate(_speakers(units), start=1)}
    named = named_in(question, list(numbers))
    words = [stems(unit.text) for unit in units]
    entries = _entries(units, cosines, words, numbers)
    wishes = wishes_of(question)
    wants = (Wish.TIME in wishes, Wish.NUMBER in wishes, Wish.PICTURE in wishes)
    asked = Asked(frozenset(numbers[name] for name in named), *wants, (), 0.0)
    features = Features(_lexicon(question, words, named, stems), asked, entries)
    return scorer.scores(features.of(list(entries)))


def _entries(
    units: Sequence[Unit], cosines: Sequence[float], words: Sequence[Sequence[str]], numbers: dict[str, int]
) -> dict[int, Entry]:
    sessions = {source: number for number, source in enumerate(dict.fromkeys(unit.source for unit in units))}
    rows = enumerate(zip(units, cosines, words, strict=True), start=1)  # 0 is no row
    return {
        row: Entry(
            row=row,
            session=sessions[unit.source],
            speaker=numbers.get(speaker_of(unit.text) or ""),
            num_terms=len(terms),
            cues=cues_of(unit.text),
            created_at=0.0,
            near=_as_signatures_tell(cosine),
        )
        for row, (unit, cosine, terms) in rows
    }


def _as_signatures_tell(cosine: float) -> float:
    """What the signs of two vectors make of their cosine, which is what the weights were learned on."""
    return 1 - 2 * math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def _lexicon(question: str, words: Sequence[Sequence[str]], named: Sequence[str], stems: Stems) -> Lexicon:
    names = {stem for name in named for stem in stems(name)}
    wanted = {stem for stem in stems(question) if stem not in names}
    rows: defaultdict[str, set[int]] = defaultdict(set)
    for row, terms in enumerate(words, start=1):
        for term in wanted.intersection(terms):
            rows[term].add(row)
    held = {term: frozenset(rows[term]) for term in sorted(wanted)}
    weights = {t: math.log1p((len(words) - len(found) + 0.5) / (len(found) + 0.5)) for t, found in held.items()}
    mean = sum(map(len, words)) / max(1, len(words))
    return Lexicon(weights, held, mean, len(words))

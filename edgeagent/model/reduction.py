"""Reduction level L2: keep the sentences that matter to the question, under a token budget; what all levels report.
Pure.

Extractive: kept text is the author's own, each source in the author's order, and every dropped span is reported. The
source that matters most stands last, next to the question.
"""

import math
import sys
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import mul

from edgeagent.core.memory import Vector
from edgeagent.core.plan import Dropped, ReductionLevel, ReductionReport

if sys.version_info >= (3, 12):
    from math import sumprod as _sumprod
else:

    def _sumprod(a: "array[float]", b: "array[float]") -> float:
        return math.fsum(map(mul, a, b))


DUPLICATE = "duplicate"
LESS_RELEVANT = "less relevant to the question"
TOO_LONG = "too long for the room left"

NEIGHBOUR_WEIGHT = 0.1
"""What the similarity of the sentences beside one adds to its own: an answer often stands next to its cue."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One unit of a source, as `split_sentences` gives it; `index` counts from 0 within the source."""

    source: str
    index: int
    text: str
    tokens: int
    protected: bool = False
    """Kept whatever the budget."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is kept, source by source, each in the order given, and the kept text of each source that has any left."""

    kept: tuple[Sentence, ...]
    texts: Mapping[str, str]
    report: ReductionReport
    excess_tokens: int = 0
    """Over 0 when the protected sentences alone exceed the budget."""


def similarity(a: Vector, b: Vector) -> float:
    """Cosine of two unit vectors. Raises ValueError when their lengths differ."""
    if len(a) != len(b):
        raise ValueError(f"vectors of {len(a)} and {len(b)} bytes cannot be compared")
    return float(_sumprod(array("f", a), array("f", b)))


def select(
    sentences: Sequence[Sentence],
    query_similarity: Sequence[float],
    budget_tokens: int,
    neighbour_weight: float = NEIGHBOUR_WEIGHT,
    gone: Mapping[int, str] | None = None,
) -> Selection:
    """The most relevant sentences that fit `budget_tokens`; one similarity a sentence, in the same order.

    Repeats of a sentence are dropped first, whatever their source (or those in `gone`: index and reason); if the rest
    fits, all of it is kept. Protected sentences are always kept, also when they alone exceed the budget. Where there
    was no room for some, sources stand by their most relevant sentence, the best one last.
    """
    scores = _scores(sentences, query_similarity, neighbour_weight)
    reasons = dict.fromkeys(_duplicates(sentences), DUPLICATE) if gone is None else dict(gone)
    room = budget_tokens - sum(s.tokens for s in sentences if s.protected)
    candidates = [i for i, s in enumerate(sentences) if not s.protected and i not in reasons]
    by_relevance = sorted(candidates, key=lambda i: (-scores[i], i))
    overflow = _overflow(sentences, by_relevance, room)
    reasons |= overflow
    selection = selection_without(sentences, reasons, ReductionLevel.L2, max(0, -room))
    if not overflow:
        return selection
    return _best_last(selection, [score for i, score in enumerate(scores) if i not in reasons])


def _best_last(selection: Selection, scores: Sequence[float]) -> Selection:
    """`scores` are those of what is kept."""
    best: dict[str, float] = {}
    for sentence, score in zip(selection.kept, scores, strict=True):
        best[sentence.source] = max(score, best.get(sentence.source, score))
    texts = {source: selection.texts[source] for source in sorted(selection.texts, key=best.__getitem__)}
    order = tuple(texts)
    if order == tuple(selection.texts):
        return selection
    kept = tuple(sorted(selection.kept, key=lambda s: order.index(s.source)))
    return replace(selection, kept=kept, texts=texts, report=selection.report.model_copy(update={"order": order}))


def selection_without(
    sentences: Sequence[Sentence], reasons: Mapping[int, str], level: ReductionLevel, excess_tokens: int = 0
) -> Selection:
    """All but those that go for a reason, by index."""
    kept = tuple(s for i, s in enumerate(sentences) if i not in reasons)
    return Selection(kept, _texts(sentences, reasons), _report(sentences, reasons, level), excess_tokens)


def with_texts(
    selection: Selection, texts: Sequence[str], counts: Sequence[int], reason: str, level: ReductionLevel
) -> Selection:
    """The selection with other texts for its sentences; what they have fewer tokens goes for `reason`."""
    kept = tuple(replace(s, text=t, tokens=n) for s, t, n in zip(selection.kept, texts, counts, strict=True))
    lost: dict[str, int] = {}
    for before, after in zip(selection.kept, kept, strict=True):
        lost[before.source] = lost.get(before.source, 0) + max(0, before.tokens - after.tokens)
    dropped = tuple(Dropped(source=source, tokens=n, reason=reason) for source, n in lost.items() if n)
    report = selection.report.model_copy(
        update={
            "level": level,
            "tokens_kept": selection.report.tokens_kept - sum(d.tokens for d in dropped),
            "dropped": (*selection.report.dropped, *dropped),
        }
    )
    return Selection(kept, _texts(kept, ()), report, selection.excess_tokens)


def _scores(sentences: Sequence[Sentence], similarities: Sequence[float], weight: float) -> list[float]:
    if len(sentences) != len(similarities):
        raise ValueError(f"{len(sentences)} sentences need as many similarities, not {len(similarities)}")
    scores = list(similarities)
    for (i, left), (j, right) in pairwise(enumerate(sentences)):
        if left.source == right.source:
            scores[i] += weight * similarities[j]
            scores[j] += weight * similarities[i]
    return scores


def _duplicates(sentences: Sequence[Sentence]) -> Iterator[int]:
    """Indices of unprotected sentences whose words stand in a protected or an earlier one."""
    seen = {_words(s) for s in sentences if s.protected}
    for i, sentence in enumerate(sentences):
        if sentence.protected:
            continue
        if (words := _words(sentence)) in seen:
            yield i
        seen.add(words)


def _words(sentence: Sentence) -> str:
    return " ".join(sentence.text.split())


def _overflow(sentences: Sequence[Sentence], by_relevance: Sequence[int], room: int) -> dict[int, str]:
    """Why each sentence that found no room is dropped: a long one may have to give way to lesser short ones."""
    dropped: dict[int, str] = {}
    pending: list[int] = []
    for i in by_relevance:
        if sentences[i].tokens > room:
            pending.append(i)
            continue
        room -= sentences[i].tokens
        dropped |= dict.fromkeys(pending, TOO_LONG)
        pending.clear()
    return dropped | dict.fromkeys(pending, LESS_RELEVANT)


def _report(sentences: Sequence[Sentence], reasons: Mapping[int, str], level: ReductionLevel) -> ReductionReport:
    merged: dict[tuple[str, str], int] = {}
    for i, reason in sorted(reasons.items()):
        key = (sentences[i].source, reason)
        merged[key] = merged.get(key, 0) + sentences[i].tokens
    tokens_in = sum(s.tokens for s in sentences)
    return ReductionReport(
        level=level,
        tokens_in=tokens_in,
        tokens_kept=tokens_in - sum(merged.values()),
        dropped=tuple(Dropped(source=source, tokens=n, reason=reason) for (source, reason), n in merged.items()),
    )


def _texts(sentences: Sequence[Sentence], dropped: Container[int]) -> dict[str, str]:
    """Kept sentences joined by source. When a dropped one ended its paragraph, the one kept before it does now."""
    parts: dict[str, list[str]] = {}
    for i, sentence in enumerate(sentences):
        if i not in dropped:
            parts.setdefault(sentence.source, []).append(sentence.text)
        elif kept := parts.get(sentence.source):
            gap, own = _trailing_space(sentence.text), _trailing_space(kept[-1])
            if gap.count("\n") > own.count("\n"):
                kept[-1] = kept[-1].rstrip() + gap
    return {source: "".join(texts) for source, texts in parts.items()}


def _trailing_space(text: str) -> str:
    return text[len(text.rstrip()) :]

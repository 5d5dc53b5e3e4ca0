"""What a question and a memory have in common, as numbers that a linear score weighs. Pure.

Words count by BM25 with a word frequency of one (Robertson and Zaragoza, 2009), divided by the sum of the question's
word weights; nearness is the cosine that two signatures estimate, less its mean over the candidates.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import NamedTuple

from edgeagent.agent.memory.cues import Cue, num_names
from edgeagent.agent.memory.times import Span, nearness

K1, B = 0.8, 0.4
"""BM25's constants for short texts: DESIGN's tuning on conversations; SQLite's own are 1.2 and .75."""

SESSION_BEST = 3
MAX_WORDS, MIN_NEAR, MAX_NEAR = 1.0, -0.2, 0.3
"""Where squares and products stop: beyond what conversations show, a better match must not count for less."""

IS_QUESTION, HAS_QUESTION, HAS_TIME, HAS_NUMBER, HAS_PICTURE = map(
    int, (Cue.IS_QUESTION, Cue.HAS_QUESTION, Cue.HAS_TIME, Cue.HAS_NUMBER, Cue.HAS_PICTURE)
)
"""As plain integers: flags of an enumeration cost a microsecond each, and there are thousands of tests."""
AGE_SCALE_S = 30 * 86400.0

NAMES = (
    "words",
    "words_before",
    "words_after",
    "words_2_before",
    "words_2_after",
    "words_session",
    "words_best",
    "coverage",
    "matched",
    "rarest",
    "window",
    "session_coverage",
    "near",
    "near_before",
    "near_after",
    "near_2_before",
    "near_2_after",
    "near_session",
    "near_best",
    "words_of_asked",
    "near_of_asked",
    "words_near",
    "words_squared",
    "near_squared",
    "words_in_question",
    "near_in_question",
    "tells_asked",
    "first",
    "is_question",
    "has_question",
    "length",
    "speaker",
    "other_speaker",
    "date",
    "time_wanted",
    "has_time",
    "number_wanted",
    "picture_wanted",
    "has_picture",
    "names",
    "recent",
)


class Entry(NamedTuple):
    """A memory as its index rows tell of it. `near` is the cosine estimated from signatures, -1 to 1.

    Not a frozen dataclass: a question makes a thousand, and those take more than twice as long to make.
    """

    row: int
    session: int | None
    """Memories of one source and kind; None for those that stand alone."""
    speaker: int | None
    num_terms: int
    cues: int
    created_at: float
    near: float


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The question's words: what each weighs, and the rows that hold it."""

    weights: Mapping[str, float]
    rows: Mapping[str, frozenset[int]]
    mean_terms: float
    num_memories: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A question beside its words: `speakers` are those it names, `spans` the times."""

    speakers: frozenset[int]
    wants_time: bool
    wants_number: bool
    wants_picture: bool
    spans: Sequence[Span]
    now: float


_Session = tuple[float, float, float]
"""Mean of the best words and of the best nearness in a session, and the weight of the question's words it holds."""


_Around = tuple[int, int, int, int]
"""Rows one before, one after, two before, two after; 0 where there is none."""


class Features:
    """Computes the features of candidates among `entries`, which hold their neighbours too."""

    def __init__(self, lexicon: Lexicon, asked: Asked, entries: Mapping[int, Entry]) -> None:
        self._lexicon = lexicon
        self._asked = asked
        self._entries = entries
        self._total = math.fsum(lexicon.weights.values()) or 1.0
        self._session = {row: entry.session for row, entry in entries.items()}
        self._held = _held(lexicon, entries)
        self._middle = math.fsum(entry.near for entry in entries.values()) / max(1, len(entries))
        self._words = {row: self._words_of(entry) for row, entry in entries.items()}
        self._near = {row: entry.near - self._middle for row, entry in entries.items()}

    def promising(self, rows: Iterable[int], count: int) -> list[int]:
        """The `count` rows worth weighing, in order, by a first guess: words and nearness, here and beside."""
        words, near = self._words, self._near

        speakers = self._asked.speakers

        def guess(row: int) -> float:
            before, after = self._beside(row, -1), self._beside(row, 1)
            entry = self._entries[row]
            return (
                (-1.5 if speakers and entry.speaker not in speakers else 0.0)
                - (0.5 if entry.cues & IS_QUESTION else 0.0)
                + 3.0 * words[row]
                + 1.5 * max(words.get(before, 0.0), words.get(after, 0.0))
                + 4.0 * near[row]
                + 1.5 * max(near.get(before, 0.0), near.get(after, 0.0))
            )

        return sorted(nlargest(count, rows, key=guess))

    def of(self, rows: Sequence[int]) -> list[tuple[float, ...]]:
        """One tuple a row, in the order of NAMES."""
        best_words = max((self._words[row] for row in rows), default=0.0) or 1.0
        best_near = max((self._near[row] for row in rows), default=0.0)
        sessions = self._sessions(rows)
        found: list[tuple[float, ...]] = []
        for row in rows:
            around = self._around(row)
            session = sessions.get(self._entries[row].session)
            words = self._of_words(row, around, best_words, session)
            found.append((*words, *self._of_nearness(row, around, best_near, session), *self._of_cues(row)))
        return found

    def _words_of(self, entry: Entry) -> float:
        if not (held := self._held.get(entry.row)):
            return 0.0
        mean = self._lexicon.mean_terms
        long = entry.num_terms / mean if mean else 1.0
        return self._weight(held) * (K1 + 1) / (1 + K1 * (1 - B + B * long))

    def _weight(self, terms: Iterable[str]) -> float:
        weights = self._lexicon.weights
        return sum([weights[term] for term in terms]) / self._total

    def _beside(self, row: int, step: int) -> int:
        """The row so many steps on in the same session; 0, which no memory has, when there is none."""
        session = self._session[row]
        return row + step if session is not None and self._session.get(row + step) == session else 0

    def _around(self, row: int) -> _Around:
        return self._beside(row, -1), self._beside(row, 1), self._beside(row, -2), self._beside(row, 2)

    def _sessions(self, rows: Sequence[int]) -> dict[int | None, _Session]:
        members: defaultdict[int | None, list[int]] = defaultdict(list)
        for row in rows:
            if (session := self._entries[row].session) is not None:
                members[session].append(row)
        return {
            session: (
                _mean_best([self._words[row] for row in inside]),
                _mean_best([self._near[row] for row in inside]),
                self._weight({term for row in inside for term in self._held.get(row, ())}),
            )
            for session, inside in members.items()
        }

    def _of_words(self, row: int, around: _Around, best: float, session: _Session | None) -> tuple[float, ...]:
        words, held, lexicon = self._words, self._held.get(row, []), self._lexicon
        before, after, before2, after2 = around
        here = words[row]
        covered = self._weight(held)
        return (
            min(here, MAX_WORDS),
            words.get(before, 0.0),
            words.get(after, 0.0),
            words.get(before2, 0.0),
            words.get(after2, 0.0),
            session[0] if session else here,
            here / best,
            covered,
            len(held) / max(1, len(lexicon.weights)),
            max([lexicon.weights[term] for term in held], default=0.0) / math.log(lexicon.num_memories + 2),
            self._window(row, around),
            session[2] if session else covered,
        )

    def _window(self, row: int, around: _Around) -> float:
        """Weight of the question's words here, those of neighbours at .7, of theirs at .4."""
        found: dict[str, float] = {}
        before, after, before2, after2 = around
        for part, share in ((before2, 0.4), (after2, 0.4), (before, 0.7), (after, 0.7), (row, 1.0)):
            if held := self._held.get(part):
                found.update(dict.fromkeys(held, share))
        weights = self._lexicon.weights
        return sum([share * weights[term] for term, share in found.items()]) / self._total

    def _of_nearness(self, row: int, around: _Around, best: float, session: _Session | None) -> tuple[float, ...]:
        near, words = self._near, min(self._words[row], MAX_WORDS)
        before, after, before2, after2 = around
        here = near[row]
        clipped = max(MIN_NEAR, min(MAX_NEAR, here))
        is_question = self._entries[row].cues & IS_QUESTION
        is_answer = before and self._entries[before].cues & HAS_QUESTION
        return (
            here,
            near.get(before, 0.0),
            near.get(after, 0.0),
            near.get(before2, 0.0),
            near.get(after2, 0.0),
            session[1] if session else here,
            here - best,
            self._words[before] if is_answer else 0.0,
            near[before] if is_answer else 0.0,
            words * clipped,
            words * words,
            clipped * clipped,
            words if is_question else 0.0,
            here if is_question else 0.0,
            1.0 if is_answer else 0.0,
            0.0 if before or self._entries[row].session is None else 1.0,
        )

    def _of_cues(self, row: int) -> tuple[float, ...]:
        asked, entry = self._asked, self._entries[row]
        cues = entry.cues
        has_time = 1.0 if cues & HAS_TIME else 0.0
        has_picture = 1.0 if cues & HAS_PICTURE else 0.0
        is_named = entry.speaker in asked.speakers
        is_other = entry.speaker is not None and len(asked.speakers) == 1 and not is_named
        return (
            1.0 if cues & IS_QUESTION else 0.0,
            1.0 if cues & HAS_QUESTION else 0.0,
            math.log1p(entry.num_terms),
            1.0 if is_named else 0.0,
            1.0 if is_other else 0.0,
            nearness(entry.created_at, asked.spans) if asked.spans else 0.0,
            has_time if asked.wants_time else 0.0,
            has_time,
            1.0 if asked.wants_number and cues & HAS_NUMBER else 0.0,
            has_picture if asked.wants_picture else 0.0,
            has_picture,
            float(num_names(cues)),
            math.exp(-max(0.0, asked.now - entry.created_at) / AGE_SCALE_S),
        )


def _held(lexicon: Lexicon, entries: Mapping[int, Entry]) -> dict[int, list[str]]:
    """The question's words that each row holds."""
    held: defaultdict[int, list[str]] = defaultdict(list)
    for term, holders in lexicon.rows.items():
        for row in holders & entries.keys():
            held[row].append(term)
    return dict(held)


def _mean_best(values: list[float]) -> float:
    return sum(sorted(values)[-SESSION_BEST:]) / SESSION_BEST

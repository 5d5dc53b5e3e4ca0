"""Recall inside one namespace: candidates by words and by signatures, weighed by the learned score.

SQL finds (word index, a scan of signatures), plain Python weighs a few hundred candidates. The scan reads 48 bytes a
memory in the namespace's own range of rows, so other namespaces cost nothing.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

from edgeagent.agent.memory.cues import Wish, named_in, wishes_of
from edgeagent.agent.memory.features import Asked, Entry, Features, Lexicon
from edgeagent.agent.memory.rows import rows_of
from edgeagent.agent.memory.scoring import Scorer
from edgeagent.agent.memory.times import spans
from edgeagent.agent.memory.words import folded, stems, telling
from edgeagent.core.memory import Vector

if TYPE_CHECKING:
    import apsw

MAX_QUERY_WORDS = 64
"""Distinct words of a question that are looked up: bounds the work a long question can cause."""

MAX_POSTINGS = 30_000
"""Rows read from the word index for one question, the rarest words first; what is left of common words tells little."""

NUM_NEAREST, NUM_MATCHING, NUM_WIDENED, NUM_WEIGHED = 120, 120, 40, 120
"""Candidates by signature, by words, how many of each bring their neighbours along, and how many get a score."""


@dataclass(frozen=True, slots=True)
class Question:
    """`vector` belongs to the text without the names of the namespace's speakers."""

    text: str
    vector: Vector
    now: float


@dataclass(frozen=True, slots=True)
class Namespace:
    number: int
    num_memories: int
    num_terms: int

    @classmethod
    def find(cls, db: "apsw.Connection", user: str) -> "Namespace | None":
        found = db.execute("SELECT number, num_memories, num_terms FROM namespaces WHERE user = ?", (user,)).fetchone()
        return cls(*found) if found else None

    @property
    def rows(self) -> tuple[int, int]:
        return rows_of(self.number)


def speakers(db: "apsw.Connection", namespace: Namespace) -> dict[str, int]:
    """Names of those who speak in the namespace's turns, and their numbers."""
    found = db.execute("SELECT name, number FROM speakers WHERE namespace = ?", (namespace.number,))
    return {str(name): int(number) for name, number in found}


class Weighed(NamedTuple):
    """A candidate; `features` are those of `features.NAMES`."""

    row: int
    score: float
    features: tuple[float, ...]


def weigh(db: "apsw.Connection", namespace: Namespace, question: Question, scorer: Scorer) -> list[Weighed]:
    """The candidates, best first."""
    rows, features = candidates(db, namespace, question)
    scored = map(Weighed, rows, scorer.scores(features), features)
    return sorted(scored, key=lambda each: (-each.score, each.row))


def candidates(
    db: "apsw.Connection", namespace: Namespace, question: Question
) -> tuple[list[int], list[tuple[float, ...]]]:
    """The rows worth weighing, and the features of each (`features.NAMES`)."""
    known = speakers(db, namespace)
    named = named_in(question.text, list(known))
    lexicon = _lexicon(db, namespace, question.text, named)
    nearest = _nearest(db, namespace, question.vector)
    matching = _matching(lexicon)
    around = {row + step for row in (*nearest[:NUM_WIDENED], *matching[:NUM_WIDENED]) for step in (-1, 1)}
    pool = {*nearest, *matching, *around}
    entries = _entries(db, {row + step for row in pool for step in (-2, -1, 0, 1, 2)}, question.vector)
    features = Features(lexicon, _asked(question, frozenset(known[name] for name in named)), entries)
    rows = features.promising(pool & entries.keys(), NUM_WEIGHED)
    return rows, features.of(rows)


def _asked(question: Question, named: frozenset[int]) -> Asked:
    wishes = wishes_of(question.text)
    wants = (Wish.TIME in wishes, Wish.NUMBER in wishes, Wish.PICTURE in wishes)
    return Asked(named, *wants, spans(question.text, question.now), question.now)


def _nearest(db: "apsw.Connection", namespace: Namespace, vector: Vector) -> list[int]:
    select = (
        "SELECT row FROM traces WHERE row BETWEEN ? AND ? "
        "ORDER BY vec_distance_hamming(vec_bit(bits), vec_quantize_binary(?)) LIMIT ?"
    )
    return [row for (row,) in db.execute(select, (*namespace.rows, vector, NUM_NEAREST))]


def _lexicon(db: "apsw.Connection", namespace: Namespace, text: str, named: Sequence[str]) -> Lexicon:
    """The question's telling words without the names of speakers, weighed by how few memories hold them."""
    names = {stem for name in named for stem in stems(db, name)}
    words = list(dict.fromkeys(folded(db, text)))[: 4 * MAX_QUERY_WORDS]
    wanted: dict[str, str] = {}
    for word in words:
        for stem in telling(stems(db, word)):
            if stem not in names and len(wanted) < MAX_QUERY_WORDS:
                wanted.setdefault(stem, word)
    select = "SELECT term, doc FROM memory_vocabulary WHERE term IN (SELECT value FROM json_each(?))"
    count = {str(term): int(num) for term, num in db.execute(select, (json.dumps(list(wanted)),))}
    rows: dict[str, frozenset[int]] = {}
    weights: dict[str, float] = {}
    room = MAX_POSTINGS
    for stem in sorted(wanted, key=lambda stem: count.get(stem, 0)):
        found = _holders(db, namespace, wanted[stem], room + 1) if stem in count else []
        num_holders = len(found)
        if num_holders > room:
            num_holders, found = min(count[stem], namespace.num_memories), []
        room -= len(found)
        rows[stem] = frozenset(found)
        weights[stem] = math.log1p((namespace.num_memories - num_holders + 0.5) / (num_holders + 0.5))
    return Lexicon(weights, rows, namespace.num_terms / max(1, namespace.num_memories), namespace.num_memories)


def _holders(db: "apsw.Connection", namespace: Namespace, word: str, limit: int) -> list[int]:
    select = "SELECT rowid FROM memory_words WHERE memory_words MATCH ? AND rowid BETWEEN ? AND ? LIMIT ?"
    return [row for (row,) in db.execute(select, (f'"{word}"', *namespace.rows, limit))]


def _matching(lexicon: Lexicon) -> list[int]:
    """Rows by the weight of what they and, at a share, their neighbours hold."""
    sums: defaultdict[int, float] = defaultdict(float)
    for term, holders in lexicon.rows.items():
        weight = lexicon.weights[term]
        for row in holders:
            sums[row] += weight
    best = nlargest(4 * NUM_MATCHING, sums, key=sums.__getitem__)
    widened = {row: sums[row] + 0.5 * sums.get(row - 1, 0.0) + 0.3 * sums.get(row + 1, 0.0) for row in best}
    return nlargest(NUM_MATCHING, widened, key=widened.__getitem__)


def _entries(db: "apsw.Connection", rows: Iterable[int], vector: Vector) -> dict[int, Entry]:
    select = (
        "SELECT row, session, speaker, num_terms, cues, created_at, "
        "1 - 2.0 * vec_distance_hamming(vec_bit(bits), vec_quantize_binary(?)) / (8 * length(bits)) "
        "FROM traces WHERE row IN (SELECT value FROM json_each(?))"
    )
    return {found[0]: Entry(*found) for found in db.execute(select, (vector, json.dumps(sorted(rows))))}

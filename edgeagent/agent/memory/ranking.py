"""How two rankings become one, and how a question becomes a full-text query. Pure."""

import re
from collections import defaultdict
from collections.abc import Sequence

RRF_K = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke and Büttcher, SIGIR 2009)."""

MAX_QUERY_WORDS = 64
"""Distinct words of a question that are looked up: bounds the work a long question can cause."""

_WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    _WORD.findall(
        "a about am an and any are as at be been but by can could did do does for from had has have he her him his how "
        "i if in is it its me my of on or our she should so tell than that the their them then there these they this "
        "to us was we were what when where which who whom whose why will with would you your"
    )
)


def fuse(rankings: Sequence[Sequence[int]]) -> list[tuple[int, float]]:
    """Rows and their scores, best first. 1.0 is a row that every ranking puts first."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, row in enumerate(ranking, start=1):
            scores[row] += (RRF_K + 1) / (RRF_K + rank) / len(rankings)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def match_expression(question: str) -> str | None:
    """An FTS5 expression that any telling word of the question satisfies; None without words.

    Words are quoted, so nothing in a question is an operator.
    """
    words = list(dict.fromkeys(_WORD.findall(question.casefold())))
    telling = [word for word in words if word not in STOP_WORDS] or words
    return " OR ".join(f'"{word}"' for word in telling[:MAX_QUERY_WORDS]) or None

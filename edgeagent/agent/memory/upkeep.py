"""Keeping a namespace within bounds: what says nothing new, and what has faded most."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeagent.agent.memory.words import stems, telling
from edgeagent.core.errors import QuotaError

if TYPE_CHECKING:
    import apsw

BAND_BITS = 16
"""Signatures that agree in a band are compared: of pairs that differ in 33 of 384 bits 99.8 %, in 48 95 %."""
NEAR_SHARE = 1 / 8
"""Of the bits, in which near ones may differ. MiniLM: a final full stop 33 of 384, "I'm" for "I am" 40, a city 64."""
NEGATIONS = frozenset(("no", "not", "never", "none", "nor", "nobodi", "noth", "cannot", "without", "t"))
"""Stems that turn a statement round; "t" is what an apostrophe leaves of "isn't"."""
MAX_SESSIONS = 10
MEMORY_S = 30 * 86400.0
"""A memory fades to 1/e of its strength in this time, and a worth of 1 makes it e times as strong."""

_TEXTS = """
SELECT id, bits, text FROM memories JOIN traces USING (row)
WHERE memories.namespace = (SELECT number FROM namespaces WHERE user = ?)
AND kind IN ('note', 'document', 'event', 'summary') ORDER BY row
"""
_FADED = """
SELECT id FROM memories LEFT JOIN records USING (row)
WHERE memories.namespace = (SELECT number FROM namespaces WHERE user = ?1)
AND (kind IN ('turn', 'event', 'document', 'experience') OR valid_until IS NOT NULL)
ORDER BY valid_until IS NULL, created_at / ?2 + coalesce(worth, 0.0), memories.row LIMIT ?3
"""


def repeated(db: "apsw.Connection", user: str) -> dict[str, str]:
    """Ids of memories near another one that says all they say and more, and the ids of those others."""
    rows: list[Any] = db.execute(_TEXTS, (user,)).fetchall()
    found = [(id_, bits, _said(stems(db, text))) for id_, bits, text in rows]
    said = {id_: words for id_, _, words in found}
    num_bits = 8 * len(found[0][1]) if found else 0
    repeats: dict[str, str] = {}
    for one, other in _near([(id_, int.from_bytes(bits, "big")) for id_, bits, _ in found], num_bits):
        for less, more in ((other, one), (one, other)):
            if not {less, more} & repeats.keys() and _is_part(said[less], said[more]):
                repeats[less] = more
    return repeats


_Said = tuple[tuple[str, ...], frozenset[str]]
"""Telling words in order, and the negations among all words."""


def _said(words: list[str]) -> _Said:
    return tuple(telling(words)), frozenset(words) & NEGATIONS


def _is_part(less: _Said, more: _Said) -> bool:
    """Whether the words of one occur in the other in the same order, with the same negations: no fact gets lost."""
    rest = iter(more[0])
    return less[1] == more[1] and all(word in rest for word in less[0])


def _near(signatures: list[tuple[str, int]], num_bits: int) -> Iterator[tuple[str, str]]:
    """Pairs of ids in order; a pair that agrees in several bands comes several times."""
    for band in range(num_bits // BAND_BITS):
        buckets: defaultdict[int, list[tuple[str, int]]] = defaultdict(list)
        for id_, bits in signatures:
            bucket = buckets[(bits >> band * BAND_BITS) & (2**BAND_BITS - 1)]
            for earlier, others in bucket:
                if (bits ^ others).bit_count() <= NEAR_SHARE * num_bits:
                    yield earlier, id_
            bucket.append((id_, bits))


def faded(db: "apsw.Connection", user: str, count: int) -> list[str]:
    """Ids of the `count` weakest: superseded ones first, then by age and worth. Notes, facts and skills do not fade."""
    return [str(id_) for (id_,) in db.execute(_FADED, (user, MEMORY_S, count))]


def check_quota(db: "apsw.Connection", user: str, most: int | None, num_new: int, *, has_records: bool) -> None:
    """Raises QuotaError. History counts when records are added, which make it; the rest is kept as a count."""
    if not most or not num_new:
        return
    held = db.execute("SELECT num_memories FROM namespaces WHERE user = ?", (user,)).get or 0
    if (size(db, user) if has_records else int(held)) + num_new > most:
        raise QuotaError(
            f"user '{user}' would have over {most} memories; forget some, run 'edgeagent memory tidy', "
            "or raise memory.max_memories"
        )


def size(db: "apsw.Connection", user: str) -> int:
    """Memories of the user, superseded ones too, without summaries of conversations."""
    own = "namespace = (SELECT number FROM namespaces WHERE user = ?1)"
    select = f"SELECT (SELECT count(*) FROM memories WHERE {own}) - (SELECT count(*) FROM summaries WHERE {own})"  # noqa: S608
    return int(db.execute(select, (user,)).get)


def summary_of(source: str) -> str:
    """The source of the summary of the session with that source."""
    return f"summary of {source}"


def unreflected(db: "apsw.Connection", user: str, least: int) -> list[tuple[str, list[str]]]:
    """Sessions of at least so many turns without a summary, the oldest first, each with its texts in order."""
    own = "namespace = (SELECT number FROM namespaces WHERE user = ?1)"
    summed_up = f"SELECT 1 FROM memories WHERE {own} AND kind = 'summary' AND source = 'summary of ' || turns.source"  # noqa: S608
    sources = (
        f"SELECT source FROM memories AS turns WHERE {own} AND kind = 'turn' AND source <> '' "  # noqa: S608  (literals)
        f"AND NOT EXISTS ({summed_up}) GROUP BY source HAVING count(*) >= ?2 ORDER BY max(created_at)"
    )
    texts = f"SELECT text FROM memories WHERE {own} AND kind = 'turn' AND source = ?2 ORDER BY row"  # noqa: S608
    found = [str(source) for (source,) in db.execute(sources, (user, least)).fetchall()]
    return [(source, [str(text) for (text,) in db.execute(texts, (user, source))]) for source in found[:MAX_SESSIONS]]

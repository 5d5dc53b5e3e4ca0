"""Which positions of a prompt its answer can do without: those that its last tokens attend to least. Pure.

The first positions are never dropped: attention that has nowhere else to go rests on them ("attention sinks", Xiao et
al., arXiv:2309.17453). Nor are the last ones, whose attention is the measure (SnapKV, arXiv:2404.14469).
"""

from collections.abc import Iterable, Sequence

from edgeagent.core.generation import Span

SINKS = 4
WINDOW = 32
"""Tokens at the end of a prompt whose attention is read."""
POOL = 8
"""A position counts as much as the best of so many on either side: what is looked at first is where a phrase begins.

Measured with SmolLM2-135M, half of 800 to 1,200 positions dropped, 14 codes of 5 and 9 digits, of which the whole
cache found 12: 3 without neighbours, 4 with 2, 9 with 4, 12 with 6 to 16; summed over heads or their largest alike.
"""


def kept_always(num_prompt: int, protected: Iterable[Span] = ()) -> list[bool]:
    """By position: the sinks, the window, and the protected spans `[begin, end)`."""
    is_kept = [i < SINKS or i >= num_prompt - WINDOW for i in range(num_prompt)]
    for begin, end in protected:
        for i in range(max(0, begin), min(end, num_prompt)):
            is_kept[i] = True
    return is_kept


def num_droppable(num_prompt: int, share: float, protected: Iterable[Span] = ()) -> int:
    """`share` of a prompt's positions, or all that are not kept always, if those are fewer."""
    return min(int(num_prompt * share), kept_always(num_prompt, protected).count(False))


def weakest(scores: Sequence[float], num_dropped: int, protected: Iterable[Span] = ()) -> list[Span]:
    """The `num_dropped` positions with the lowest scores of those that may go, earlier ones first among equals.

    One score a position. As spans `[begin, end)` in order, which do not touch. Raises ValueError for too many.
    """
    is_kept = kept_always(len(scores), protected)
    pooled = [max(scores[max(0, i - POOL) : i + POOL + 1]) for i in range(len(scores))]
    candidates = sorted((i for i, kept in enumerate(is_kept) if not kept), key=lambda i: (pooled[i], i))
    if num_dropped > len(candidates):
        raise ValueError(f"{num_dropped} positions cannot be dropped where {len(candidates)} may go")
    return _spans(sorted(candidates[:num_dropped]))


def _spans(positions: Sequence[int]) -> list[Span]:
    spans: list[Span] = []
    for position in positions:
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        else:
            spans.append((position, position + 1))
    return spans

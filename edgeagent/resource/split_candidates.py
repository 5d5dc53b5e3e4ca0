"""Where a model may be split between this machine and a peer, and what that would cost. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeagent.core.plan import PlanKind
from edgeagent.core.stages import HIDDEN_TYPES, HiddenType, hidden_row_bytes
from edgeagent.resource.cost import LinkSpeeds, Price, Speeds, Split, Work, price_split_decode, price_split_prefill

MAX_CUTS_PRICED = 6
"""Of each plan and peer: prices change smoothly with k."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a split needs to know of the model."""

    layers: int
    width: int
    cell_bytes: int
    """Of all layers, a token; 0: cells of single layers cannot be exchanged."""
    chunk_tokens: int
    output_share: float = 0.0
    """See `cost.Split`."""

    def split(self, k: int, hidden: HiddenType = "f32", *, final_hidden: bool = False) -> Split:
        """`final_hidden`: this machine draws, from hidden states that come back."""
        behind, row = self.cell_bytes * (self.layers - k) // self.layers, hidden_row_bytes(hidden, self.width)
        back = row if final_hidden else 0
        return Split(k, self.layers, row, behind, self.chunk_tokens, self.output_share, back)


@dataclass(frozen=True, slots=True)
class Ways:
    """How a model may be split with one peer: at these cuts; with these types of hidden states in `split-decode`."""

    cuts: Sequence[int]
    wires: Sequence[HiddenType] = HIDDEN_TYPES[:1]
    final_hidden: bool = False


def spread(cuts: Sequence[int]) -> tuple[int, ...]:
    """At most MAX_CUTS_PRICED of them, evenly, with the first and the last."""
    if len(cuts) <= MAX_CUTS_PRICED:
        return tuple(cuts)
    step = (len(cuts) - 1) / (MAX_CUTS_PRICED - 1)
    return tuple(cuts[round(i * step)] for i in range(MAX_CUTS_PRICED))


def priced(
    work: Work,
    here: Speeds,
    there: Speeds,
    link: LinkSpeeds,
    begin_s: Callable[[int], float],
    shape: Shape,
    ways: Ways,
) -> Iterator[tuple[PlanKind, int, HiddenType, Price]]:
    """Every split plan at some of the cuts, where the peer begins so many seconds later.

    Lossy hidden states are for `split-decode` alone: cells made of them would be kept here as exact ones.
    """
    for k in spread([k for k in ways.cuts if k < shape.layers]):
        queue_s = begin_s(k)
        yield PlanKind.SPLIT_PREFILL, k, "f32", price_split_prefill(work, here, there, link, queue_s, shape.split(k))
        for hidden in ways.wires:
            split = shape.split(k, hidden, final_hidden=ways.final_hidden)
            yield PlanKind.SPLIT_DECODE, k, hidden, price_split_decode(work, here, there, link, queue_s, split)

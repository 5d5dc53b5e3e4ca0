"""Where a model may be split between this machine and a peer, and what that would cost. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeagent.core.plan import PlanKind
from edgeagent.core.stages import HiddenType, hidden_row_bytes
from edgeagent.resource.cost import LinkSpeeds, Price, Speeds, Split, Work, price_split_decode, price_split_prefill

MAX_CUTS_PRICED = 6
"""Of each plan and peer: prices change smoothly with k."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a split needs to know of the model that is whole here."""

    layers: int
    width: int
    cell_bytes: int
    """Of all layers, a token."""
    chunk_tokens: int
    hidden: HiddenType = "f32"

    def split(self, k: int) -> Split:
        behind = self.cell_bytes * (self.layers - k) // self.layers
        return Split(k, self.layers, hidden_row_bytes(self.hidden, self.width), behind, self.chunk_tokens)


def spread(cuts: Sequence[int]) -> tuple[int, ...]:
    """At most MAX_CUTS_PRICED of them, evenly, with the first and the last."""
    if len(cuts) <= MAX_CUTS_PRICED:
        return tuple(cuts)
    step = (len(cuts) - 1) / (MAX_CUTS_PRICED - 1)
    return tuple(cuts[round(i * step)] for i in range(MAX_CUTS_PRICED))


def priced(
    work: Work, here: Speeds, there: Speeds, link: LinkSpeeds, queue_s: float, shape: Shape, cuts: Sequence[int]
) -> Iterator[tuple[PlanKind, int, Price]]:
    """Every split plan at some of the cuts."""
    for k in spread([k for k in cuts if k < shape.layers]):
        split = shape.split(k)
        yield PlanKind.SPLIT_PREFILL, k, price_split_prefill(work, here, there, link, queue_s, split)
        yield PlanKind.SPLIT_DECODE, k, price_split_decode(work, here, there, link, queue_s, split)

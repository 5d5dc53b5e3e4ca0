"""Which model and variant suit a machine best, over all cards. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import EdgeAgentError
from edgeagent.model.limits import Limits
from edgeagent.model.machine import Machine
from edgeagent.model.select import Row, Selection, Sizes, select

LEAST_BITS = 4.0
"""Bits a weight below which a larger model is no longer taken for the better one: of models of the same size in bits,
those of 4 bits a weight were mostly the best, those of 3 worse (Dettmers and Zettlemoyer, The case for 4-bit precision,
ICML 2023)."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The model recommended and its selection. `others`: every other card's reason for standing back."""

    card: ModelCard
    selection: Selection
    why: str
    others: dict[str, str]


def recommend(
    cards: Iterable[ModelCard], sizes: Callable[[ModelCard], Sizes], machine: Machine, limits: Limits
) -> Recommendation | None:
    """Of the chat models whose selected variant reaches the targets, the largest; None when none fits.

    Perplexities of different models do not compare (their vocabularies differ), so the number of parameters stands in
    for quality between models, as far as 4 bits a weight are left. Where no model reaches the targets, the fastest.
    """
    found: list[tuple[ModelCard, Selection]] = []
    others: dict[str, str] = {}
    for card in cards:
        if card.kind != "chat" or card.architecture is None:
            continue
        try:
            found.append((card, select(card, sizes(card), machine, limits)))
        except EdgeAgentError as error:
            others[card.id] = str(error).partition(";")[0]
    if not found:
        return None
    card, selection = min(found, key=_preference)
    num_models = len(found) + len(others)
    others |= {other.id: _stood_back(other, chosen, card) for other, chosen in found if other is not card}
    return Recommendation(card, selection, _why(card, selection, num_models), others)


def bits_per_weight(card: ModelCard, row: Row) -> float:
    return 8 * (row.bytes or 0) / card.parameters


def _row(selection: Selection) -> Row:
    return next(row for row in selection.table if row.variant == selection.variant)


def _preference(pair: tuple[ModelCard, Selection]) -> tuple[bool, float, bool, int, str]:
    """Reaching the targets, else speed; then bits enough; then parameters."""
    card, row = pair[0], _row(pair[1])
    misses = "latency" in row.faults
    seconds = (row.speed.request_s if row.speed else None) or 0.0
    return (misses, seconds if misses else 0.0, bits_per_weight(card, row) < LEAST_BITS, -card.parameters, card.id)


def _stood_back(card: ModelCard, selection: Selection, chosen: ModelCard) -> str:
    row = _row(selection)
    if row.rejected:
        return f"{row.variant}: {row.rejected}"
    if bits_per_weight(card, row) < LEAST_BITS and card.parameters > chosen.parameters:
        return f"{row.variant}: {bits_per_weight(card, row):.1f} bits a weight are too few to profit from its size"
    return f"{row.variant} would do, with fewer parameters than {chosen.id}"


def _why(card: ModelCard, selection: Selection, num_models: int) -> str:
    row = _row(selection)
    size = f"{card.parameters / 1e9:.2g} billion parameters"
    if "latency" in row.faults:
        merit = "the fastest, as none reaches the targets"
    else:
        merit = f"the largest that fits and reaches the targets ({size} stand for quality between models)"
    return f"of {num_models} models, {card.id} is {merit}; {selection.why}"

"""What memory a stage of a model takes, before it is loaded: the parts of `footprint`, of the stage's layers. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from edgeagent.core.cards import Architecture
from edgeagent.core.stages import Cut
from edgeagent.model.footprint import Footprint, Setup, Weights, parts_of, predict, weigh

GRAIN_TOKENS = 4096
DRAFT_ROWS = 16
"""Rows of a batch that draws are made of, at most: their logits are in memory twice."""


def predict_stage(
    shape: Architecture, file_type: str, cut: Cut, file_bytes: int, repacked: frozenset[str], setup: Setup
) -> Footprint:
    """A worker's peak with one session whose context is full. `shape` is the whole model's.

    A head or a middle has cells of one layer more, which is never computed (`execution.llama.padding`), and gives no
    logits. Its whole token table counts: llama.cpp has the system read a mapped file ahead.
    """
    whole = weigh(shape, file_type, repacked, file_bytes)
    assert whole is not None  # its size is known
    layers = cut.num_blocks + cut.ends_inside
    own = replace(whole, file_bytes=file_bytes, repacked_bytes=_copied(whole, shape, file_type, cut, repacked))
    found = predict(shape.model_copy(update={"layers": layers}), own, setup)
    logits = 2 * DRAFT_ROWS if not cut.ends_inside else -3  # `predict` counts those of one token in three places
    return replace(found, compute_bytes=found.compute_bytes + 4 * logits * shape.vocab)


def longest_context(
    shape: Architecture, file_type: str, cut: Cut, file_bytes: int, repacked: frozenset[str], setup: Setup, room: int
) -> int:
    """Tokens of context with which the stage takes `room` bytes; may be below one."""

    def total(tokens: int) -> int:
        wanted = replace(setup, context_tokens=tokens)
        return predict_stage(shape, file_type, cut, file_bytes, repacked, wanted).total_bytes

    empty = total(0)
    return (room - empty) * GRAIN_TOKENS // (total(GRAIN_TOKENS) - empty)


def _copied(whole: Weights, shape: Architecture, file_type: str, cut: Cut, repacked: frozenset[str]) -> int:
    """Of weights that the engine keeps in another layout, those of this stage."""
    if whole.load is None:
        return whole.repacked_bytes
    return sum(_sizes(shape, file_type, cut, repacked))


def _sizes(shape: Architecture, file_type: str, cut: Cut, repacked: frozenset[str]) -> Iterator[int]:
    blocks = range(1) if cut.is_output else range(cut.begin, cut.end)
    for layer, size in parts_of(shape, file_type, repacked):
        if layer in blocks or (layer is None and not cut.ends_inside):
            yield size

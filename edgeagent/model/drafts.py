"""The smaller model that drafts for a larger one: which file of it, and what it takes beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeagent.model.footprint import Setup, predict, weigh
from edgeagent.model.store import StoredVariant

LEAST_SAVING = 3
"""How many times larger the file of the model must be: a step costs by the bytes of weights, and a draft of several
tokens takes several steps of the small model beside the batch of the large one."""
CONTEXT_TOKENS = 1024
"""As the worker gives a draft model (`execution.llama.draft_model`)."""


@dataclass(frozen=True, slots=True)
class DraftFile:
    """`memory_bytes` beside the large model, in the same process."""

    path: str
    file_bytes: int
    memory_bytes: int


def find_draft(
    chosen: StoredVariant, setup: Setup, candidates: Sequence[StoredVariant], room_bytes: int
) -> DraftFile | None:
    """The smallest of these files of a draft model, if it is small enough to help and fits into `room_bytes`.

    `setup` is the large model's: the draft model's cache and chunks are of its kind.
    """
    smallest = min(candidates, key=lambda s: s.bytes, default=None)
    if smallest is None or smallest.bytes * LEAST_SAVING > chosen.bytes:
        return None
    found = DraftFile(str(smallest.path), smallest.bytes, _memory_bytes(smallest, setup))
    return found if found.memory_bytes <= room_bytes else None


def _memory_bytes(draft: StoredVariant, setup: Setup) -> int:
    """Weights counted twice: the engine may keep them in another layout beside the file's pages."""
    shape = draft.card.shape(draft.variant)
    weights = weigh(shape, draft.variant.file_type, frozenset(), draft.bytes)
    assert weights is not None  # the file's size is known
    footprint = predict(shape, weights, replace(setup, context_tokens=CONTEXT_TOKENS, loading="mapped"))
    return footprint.total_bytes - footprint.process_bytes + draft.bytes

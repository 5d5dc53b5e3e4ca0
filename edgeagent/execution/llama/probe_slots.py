"""The slots of a context as measuring needs them: logits of any batch, cells saved and put back as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.candidates import logits
from edgeagent.execution.llama.context import Context, ContextSettings, Item
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.tensors import FloatArray


@dataclass(frozen=True, slots=True)
class Part:
    """One slot's share of a batch. Logits are kept of its last token, or of all."""

    slot: int
    tokens: Sequence[int]
    all_logits: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """A slot's cells as llama.cpp writes them, and the tokens they are of."""

    data: memoryview
    tokens: Sequence[int]

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


class Slots:
    """A context whose shapes are free, so that nothing is reused behind the back of what is measured.

    Raises OutOfMemoryError.
    """

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        self.settings = settings
        self.batch_tokens = max(settings.chunk_tokens, settings.sequences)
        self._context = Context(model, settings)

    def set_threads(self, threads: int) -> None:
        self._context.set_threads(threads)

    def evaluate(self, *parts: Part) -> list[FloatArray]:
        """One batch; per part a copy of its logits, (1 or tokens) x vocabulary. Raises EngineError."""
        items = [Item(self._context.slots[part.slot], part.tokens, part.all_logits) for part in parts]
        firsts = self._context.evaluate(items)
        return [self._rows(part, first) for part, first in zip(parts, firsts, strict=True)]

    def _rows(self, part: Part, first: int) -> FloatArray:
        begin = 0 if part.all_logits else len(part.tokens) - 1
        return np.stack([logits(self._context, first + i) for i in range(begin, len(part.tokens))])

    def cut(self, slot: int, num_tokens: int = 0) -> None:
        """Drop all cells behind the first `num_tokens`. Raises EngineError when the cache cannot."""
        mine = self._context.slots[slot]
        mine.rewind(len(mine.tokens) - num_tokens)
        if len(mine.tokens) != num_tokens:
            raise EngineError(f"the cache cannot drop cells behind {num_tokens} tokens")

    def save(self, slot: int) -> Saved:
        mine = self._context.slots[slot]
        return Saved(mine.state_bytes(), tuple(mine.tokens))

    def restore(self, slot: int, saved: Saved) -> None:
        """Replace what a slot holds. Raises EngineError."""
        mine = self._context.slots[slot]
        mine.clear()
        mine.set_state(bytearray(saved.data))
        mine.tokens = list(saved.tokens)

    def close(self) -> None:
        self._context.close()

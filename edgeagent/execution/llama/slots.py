"""Slots: the sequences of a context. Each remembers what it holds, and how that was evaluated."""

import ctypes
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError
from edgeagent.core.generation import Span
from edgeagent.execution import canonical
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.library import llama

if TYPE_CHECKING:
    from edgeagent.execution.llama.context import Context

_uses = itertools.count(1)


class Slot:
    """One sequence: `tokens` are in its cache, evaluated in batches of `spans` (not kept where shapes are free).

    `adapter` is the key of the LoRA adapter they were evaluated with, empty without one: no cell is ever used with
    another. The probe of what shapes change no bit was made without any, so with one all shapes are canonical.
    """

    def __init__(self, context: "Context", number: int) -> None:
        self.number = number
        self.tokens: list[int] = []
        self.spans: list[int] = []
        self.adapter = ""
        self.is_busy = False
        self.is_pruned = False
        """Cells are missing among those of `tokens`: nobody else can use what is left."""
        self.used = 0
        """The newest use of any slot has the highest number."""
        self._context = context

    def take(self, adapter: str = "") -> None:
        self.is_busy, self.used = True, next(_uses)
        if adapter != self.adapter:
            self.clear()
            self.adapter = adapter

    def release(self) -> None:
        """What is in the cache stays, for whoever can use it."""
        if self.is_pruned:
            self._drop_cells()
        self.is_busy, self.used = False, next(_uses)

    def canonical_spans(self, num_prompt: int, num_output: int) -> list[int]:
        """How a prompt and an output have to be evaluated here; empty: in any shapes."""
        return self._context.canonical_spans(num_prompt, num_output, self.adapter)

    def reusable(self, tokens: Sequence[int], spans: Sequence[int], adapter: str = "") -> tuple[int, int]:
        """`(tokens, spans)` of the front of this cache that hold what evaluating `tokens` in `spans` would hold."""
        if adapter != self.adapter or self.is_pruned:
            return 0, 0
        if not self._context.is_canonical(adapter):
            num_tokens, num_spans = canonical.common_prefix(self.tokens, tokens), 0
        else:
            num_tokens, num_spans = canonical.reusable(self.tokens, self.spans, tokens, spans)
        return (num_tokens, num_spans) if self._can_rewind(num_tokens) else (0, 0)

    def prepare(self, tokens: Sequence[int], spans: Sequence[int]) -> int:
        """Drop what is no front of `tokens`, and so much that evaluating the rest yields logits; tokens kept."""
        num_tokens, num_spans = self.reusable(tokens, spans, self.adapter)
        if num_tokens == len(tokens):
            num_spans = max(0, num_spans - 1)
            num_tokens -= spans[num_spans] if spans else 1
        self._truncate(num_tokens, num_spans)
        return len(self.tokens)

    def rewind(self, num_tokens: int) -> None:
        """Drop the newest `num_tokens`, which were evaluated one by one or in free shapes."""
        self._truncate(len(self.tokens) - num_tokens, len(self.spans) - num_tokens)

    def clear(self) -> None:
        self._drop_cells()
        self.adapter = ""

    def _drop_cells(self) -> None:
        llama().llama_memory_seq_rm(self._context.memory, self.number, -1, -1)
        self.tokens, self.spans, self.is_pruned = [], [], False

    def prune(self, spans: Sequence[Span]) -> None:
        """Drop the cells at these positions `[begin, end)`; tokens to come are numbered as if they were there.

        What is left is packed: attention reads every cell up to the last one in use. Raises EngineError.
        """
        lib, memory = llama(), self._context.memory
        for begin, end in spans:
            if not lib.llama_memory_seq_rm(memory, self.number, begin, end):
                self.clear()
                raise EngineError("the cache of this model cannot be pruned; ask for another reduction")
        self.is_pruned = True
        left = self.state_bytes()
        lib.llama_memory_seq_rm(memory, self.number, -1, -1)
        self.set_state(left)

    def _truncate(self, num_tokens: int, num_spans: int) -> None:
        if num_tokens == len(self.tokens):
            return
        if not num_tokens or not llama().llama_memory_seq_rm(self._context.memory, self.number, num_tokens, -1):
            self._drop_cells()
            return
        del self.tokens[num_tokens:]
        del self.spans[max(0, num_spans) :]

    def _can_rewind(self, num_tokens: int) -> bool:
        """Whether cutting to `num_tokens` leaves a whole cache: a sliding window has forgotten what it passed."""
        model = self._context.model
        if not model.has_window or num_tokens in (0, len(self.tokens)):
            return True
        first = int(llama().llama_memory_seq_pos_min(self._context.memory, self.number))
        return first <= max(0, num_tokens - model.window)

    def evaluate(self, tokens: Sequence[int], *, all_logits: bool = False) -> int:
        """Append one span, alone in its batch; the row of its first token."""
        from edgeagent.execution.llama.context import Item

        return self._context.evaluate([Item(self, tokens, all_logits)])[0]

    def note(self, tokens: Sequence[int], *, as_singles: bool = False) -> None:
        """`tokens` are in the cache now, as one span or as so many of one token."""
        self.tokens += tokens
        if self._context.is_canonical(self.adapter):
            self.spans += [1] * len(tokens) if as_singles else [len(tokens)]

    def copy_from(self, other: "Slot", num_tokens: int, num_spans: int) -> None:
        """Fill this cache with the front of another slot's, if caches of this kind can be copied."""
        if not self._context.bytes_per_token or other.adapter != self.adapter:
            return
        self._drop_cells()
        self.set_state(kv.join(other.read_state(), num_tokens, []))
        self.tokens, self.spans = other.tokens[:num_tokens], other.spans[:num_spans]

    def read_state(self) -> kv.SequenceState:
        """The cache as rows (a copy). Raises EngineError for a kind that has none."""
        return kv.parse(self.state_bytes())

    def state_bytes(self) -> memoryview:
        """The cache as llama.cpp writes it (a copy)."""
        lib, handle = llama(), self._context.handle
        size = lib.llama_state_seq_get_size(handle, self.number)
        buffer = bytearray(size)
        raw = (ctypes.c_uint8 * size).from_buffer(buffer)
        written = lib.llama_state_seq_get_data(handle, raw, size, self.number)
        return memoryview(buffer)[:written]

    def splice(self, tokens: Sequence[int], spans: Sequence[int], blocks: Sequence[tuple[int, bytes]]) -> None:
        """Put blocks made elsewhere behind the cells that are here, so that the cache holds `tokens` in `spans`
        (those of `canonical_spans`).

        Raises EngineError if the blocks do not fit in size; the cache is then as it was.
        """
        num_kept = len(tokens) - sum(n for n, _ in blocks)
        kept, _ = self.reusable(tokens, spans, self.adapter)
        if kept < num_kept:
            raise EngineError(f"the cache holds {kept} of the {num_kept} tokens that come before the blocks")
        shape = self._context.shape if not self.tokens else self.read_state()
        self.set_state(kv.join(shape, num_kept, blocks))
        self.tokens, self.spans = list(tokens), list(spans)

    def restore(self, tokens: Sequence[int], spans: Sequence[int], parts: Sequence[kv.Part]) -> None:
        """Fill the cache with cells that were kept of these tokens. Raises EngineError if their sizes are wrong."""
        self._drop_cells()
        self.set_state(kv.assemble(self._context.shape, parts))
        self.tokens, self.spans = list(tokens), list(spans)

    def set_state(self, blob: bytearray | memoryview) -> None:
        """Replace the cache by bytes that llama.cpp wrote; `tokens` are the caller's to set. Raises EngineError."""
        raw = (ctypes.c_uint8 * len(blob)).from_buffer(blob)
        if llama().llama_state_seq_set_data(self._context.handle, raw, len(blob), self.number) != len(blob):
            self.clear()
            raise EngineError("llama.cpp refused a rebuilt KV cache; the prompt must be evaluated here")


WORTH_COPYING = 32
"""Tokens: copying cells costs about as much as evaluating a few."""


def claim(slots: Sequence[Slot], tokens: Sequence[int], spans: Sequence[int], adapter: str = "") -> Slot | None:
    """A free slot for these tokens, now busy, with what can be reused of any slot; None when all are busy.

    The slot with the most to reuse, unless that would lose much else that it holds: then a copy of its front, in the
    slot that nobody used for longest, so that another conversation with the same beginning survives.
    """
    free = [slot for slot in slots if not slot.is_busy]
    if not free:
        return None
    reuse = {slot.number: slot.reusable(tokens, spans, adapter) for slot in slots}
    best = max(free, key=lambda slot: (reuse[slot.number], -slot.used))
    oldest = min(free, key=lambda slot: (bool(slot.tokens), slot.used))
    chosen = best if len(best.tokens) - reuse[best.number][0] < WORTH_COPYING else oldest
    source = max(slots, key=lambda slot: reuse[slot.number])
    chosen.take(adapter)
    if source is not chosen and reuse[source.number][0] - reuse[chosen.number][0] >= WORTH_COPYING:
        chosen.copy_from(source, *reuse[source.number])
    return chosen

"""A llama.cpp context of one sequence that does a stage's part: it may begin with hidden states, and end with them."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeagent.core.errors import EngineError, OutOfMemoryError
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.tap import Tap
from edgeagent.execution.llama.tensors import FloatArray

PAGE_TOKENS = 256
"""llama.cpp rounds a context up to this (`GGML_PAD(n_ctx, 256)`)."""
ALL, SOME = 0, 1
"""Sequence ids: that of every cell, and one that cells get while they alone are read."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a context does: it `takes_hidden` states or tokens; it ends `after` so many layers, or gives logits."""

    takes_hidden: bool = False
    after: int | None = None


class StageContext:
    """Its own cells, the model's weights. Contexts call back for every node where they end early, so none is shared
    with whole evaluation: that would slow each token of every answer.

    The cells of layers behind an early end are never written: only rows of the layers before it mean anything.
    """

    def __init__(self, model: Model, settings: ContextSettings, part: Part, context_tokens: int) -> None:
        lib = llama()
        self.model = model
        self._part = part
        self._settings = settings
        self.chunk_tokens = settings.chunk_tokens
        self._tap = Tap(part.after - 1) if part.after is not None else None
        self.context_tokens = -(-context_tokens // PAGE_TOKENS) * PAGE_TOKENS
        params = lib.llama_context_default_params()
        params.n_ctx = self.context_tokens
        params.n_batch = params.n_ubatch = settings.chunk_tokens
        # A second sequence marks cells of the first. It has none of its own: both are in the one stream of a unified
        # cache, where batches and cells are as with one sequence (but a window's cache grows with their number).
        params.n_seq_max = 1 + self._has_layout
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = int(settings.flash_attention)
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.kv_unified = True
        params.no_perf = True
        params.offload_kqv = params.op_offload = settings.offload
        if self._tap:
            params.cb_eval = self._tap.pointer
        self.handle = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise OutOfMemoryError(f"no memory for a stage of {context_tokens} tokens; use a shorter context")
        self._batch = lib.llama_batch_init(settings.chunk_tokens, model.width if part.takes_hidden else 0, 1)
        self.num_tokens = 0

    @property
    def _has_layout(self) -> bool:
        """Whether cells can be exchanged."""
        return self._settings.flash_attention and not self.model.has_window

    @property
    def _memory(self) -> Any:
        return llama().llama_get_memory(self.handle)

    def evaluate(self, inputs: Sequence[int] | FloatArray, *, all_rows: bool = False) -> FloatArray | None:
        """Append a span, in one batch: tokens, or hidden states (tokens, width).

        Gives the hidden states where the context ends early: of every token, but after a file's last layer only of
        those that the whole model would give logits of, which is the last one, or `all_rows`. Else None, and logits of
        the same rows are there. Raises EngineError; the context is empty then.
        """
        if self.num_tokens + len(inputs) > self.context_tokens:
            raise EngineError(f"the stage's context of {self.context_tokens} tokens is full; ask for a shorter answer")
        self._fill(inputs, all_rows=all_rows)
        status = llama().llama_decode(self.handle, self._batch)
        try:
            if status != 0:
                raise EngineError(f"llama.cpp could not evaluate {len(inputs)} tokens (status {status}); try again")
            rows = self._tap.take() if self._tap else None
        except EngineError:
            self.truncate(0)
            raise
        self.num_tokens += len(inputs)
        return rows

    def _fill(self, inputs: Sequence[int] | FloatArray, *, all_rows: bool) -> None:
        batch, last = self._batch, len(inputs) - 1
        if isinstance(inputs, np.ndarray):
            rows = np.ascontiguousarray(inputs, np.float32)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
        else:
            for i, token in enumerate(inputs):
                batch.token[i] = token
        for i in range(len(inputs)):
            batch.pos[i] = self.num_tokens + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = self._is_output(i == last, all_rows=all_rows)
        batch.n_tokens = len(inputs)

    def _is_output(self, is_last: bool, *, all_rows: bool) -> bool:
        """llama.cpp computes the last layer's feed-forward block, and what follows, of a batch's outputs alone."""
        ends_inside = self._part.after is not None and self._part.after < self.model.layers
        return not ends_inside and (all_rows or is_last)

    def truncate(self, num_tokens: int) -> None:
        """Drop all but the first `num_tokens` cells. Raises EngineError where that cannot be done."""
        if num_tokens >= self.num_tokens:
            return
        if self._can_keep(num_tokens) and llama().llama_memory_seq_rm(self._memory, ALL, num_tokens, -1):
            self.num_tokens = num_tokens
            return
        llama().llama_memory_seq_rm(self._memory, ALL, -1, -1)
        self.num_tokens = 0
        if num_tokens:
            raise EngineError("the cache of this stage cannot be rewound; begin anew")

    def _can_keep(self, num_tokens: int) -> bool:
        """A sliding window may have forgotten what the tokens to come look at."""
        if not self.model.has_window or not num_tokens:
            return True
        first = int(llama().llama_memory_seq_pos_min(self._memory, ALL))
        return first <= max(0, num_tokens - self.model.window)

    def read_state(self, first: int, end: int) -> kv.SequenceState:
        """The cells `[first, end)` as rows: a copy of these, whatever else is there.

        Raises EngineError for a kind of cache that has none.
        """
        state = kv.parse(self._state_bytes(first, end))
        if state.num_cells != end - first:
            raise EngineError(f"{end - first} cells were asked of the engine, and {state.num_cells} came")
        return state

    def read_shape(self) -> kv.SequenceState:
        """The same of the first cell, by which the engine's layout is checked. Raises EngineError."""
        return kv.shape_of(self._state_bytes(0, 1), KV_TYPES[self._settings.kv_type])

    def _state_bytes(self, first: int, end: int) -> memoryview:
        if not self._has_layout:
            raise EngineError("the cache of this model has no exchangeable layout; use another plan")
        lib, memory = llama(), self._memory
        lib.llama_memory_seq_cp(memory, ALL, SOME, first, end)
        try:
            size = lib.llama_state_seq_get_size(self.handle, SOME)
            buffer = bytearray(size)
            raw = (ctypes.c_uint8 * size).from_buffer(buffer)
            written = lib.llama_state_seq_get_data(self.handle, raw, size, SOME)
        finally:
            lib.llama_memory_seq_rm(memory, SOME, -1, -1)
        return memoryview(buffer)[:written]

    def set_threads(self, threads: int) -> None:
        llama().llama_set_n_threads(self.handle, threads, threads)

    def close(self) -> None:
        llama().llama_batch_free(self._batch)
        llama().llama_free(self.handle)

"""Reads the attention of a prompt's last tokens, in a context of its own that lives as long as that takes.

Being called back for every node of every graph would slow each token of every answer, and a context has one callback
for its whole life. So a slot's cells are copied, and only the window is evaluated again.
"""

import ctypes
from contextlib import closing
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError, OutOfMemoryError
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.attention import WindowAttention
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.observing import Guard, decode

if TYPE_CHECKING:
    from edgeagent.execution.llama.context import Context
    from edgeagent.execution.llama.slots import Slot


def attention_of(context: "Context", slot: "Slot", window: int) -> list[float]:
    """What the slot's newest `window` tokens attend to, one number a position. Raises EngineError, OutOfMemoryError."""
    with closing(Watch(context, slot, window)) as watch:
        return watch.scores()


class Watch:
    """A context of one sequence with the settings of another one, and the cells of one of its slots."""

    def __init__(self, context: "Context", slot: "Slot", window: int) -> None:
        self._slot = slot
        self._tokens = slot.tokens
        self._window = min(window, len(slot.tokens))
        self._attention = WindowAttention(context.model.layers, len(slot.tokens), self._window)
        self._guard = Guard(self._attention)
        lib, settings = llama(), context.settings
        params = lib.llama_context_default_params()
        params.n_ctx = len(slot.tokens)
        params.n_batch = params.n_ubatch = self._window
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = lib.llama_n_threads(context.handle)
        params.flash_attn_type = int(settings.flash_attention)
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.no_perf = True
        params.offload_kqv = params.op_offload = settings.offload
        params.cb_eval = self._guard.pointer
        self._handle = lib.llama_init_from_model(context.model.handle, params)
        if not self._handle:
            raise OutOfMemoryError(f"no memory to look at {len(slot.tokens)} positions; ask for another reduction")
        context.adapters.apply_to(self._handle, slot.adapter)

    def scores(self) -> list[float]:
        self._copy_cells()
        lib, begin, tokens = llama(), len(self._tokens) - self._window, self._tokens[-self._window :]
        lib.llama_memory_seq_rm(lib.llama_get_memory(self._handle), 0, begin, -1)
        outputs = [i == self._window - 1 for i in range(self._window)]
        batch = lib.llama_batch_init(self._window, 0, 1)
        try:
            decode(self._handle, batch, tokens, begin, outputs, self._guard)
        finally:
            lib.llama_batch_free(batch)
        return self._attention.scores()

    def _copy_cells(self) -> None:
        blob = kv.single_stream(self._slot.state_bytes())
        raw = (ctypes.c_uint8 * len(blob)).from_buffer(blob)
        if llama().llama_state_seq_set_data(self._handle, raw, len(blob), 0) != len(blob):
            raise EngineError("llama.cpp refused a copy of a KV cache; ask for another reduction")

    def close(self) -> None:
        llama().llama_free(self._handle)

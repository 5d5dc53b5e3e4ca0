"""Reads the attention of a prompt's last tokens, in a context of its own that lives as long as that takes.

Being called back for every node of every graph would slow each token of every answer, and a context has one callback
for its whole life. So a slot's cells are copied, and only the window is evaluated again.
"""

import ctypes
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError, OutOfMemoryError
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.attention import WindowAttention
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.observing import Guard

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
        self._copy(kv.single_stream(slot.state_bytes()))

    def _copy(self, blob: memoryview) -> None:
        raw = (ctypes.c_uint8 * len(blob)).from_buffer(blob)
        if llama().llama_state_seq_set_data(self._handle, raw, len(blob), 0) != len(blob):
            self.close()
            raise EngineError("llama.cpp refused a copy of a KV cache; ask for another reduction")

    def scores(self) -> list[float]:
        lib, begin = llama(), len(self._tokens) - self._window
        lib.llama_memory_seq_rm(lib.llama_get_memory(self._handle), 0, begin, -1)
        status = self._decode(self._tokens[begin:], begin)
        self._guard.check()
        if status != 0:
            raise EngineError(f"llama.cpp could not evaluate {self._window} tokens (status {status}); try again")
        return self._attention.scores()

    def _decode(self, tokens: Sequence[int], begin: int) -> int:
        lib = llama()
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = begin + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(tokens) - 1
        status = int(lib.llama_decode(self._handle, batch))
        lib.llama_batch_free(batch)
        return status

    def close(self) -> None:
        llama().llama_free(self._handle)

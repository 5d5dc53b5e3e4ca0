"""Several sequences in one context, each in cells of its own, and the logits of any batch over them: for measuring."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeagent.core.errors import EngineError, OutOfMemoryError
from edgeagent.execution.llama.library import KV_TYPES, llama
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
    """A slot's cells as llama.cpp writes them, and how many tokens they are."""

    data: bytes
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """`cells` is for each of the `sequences`; `offload` lets a GPU take part."""

    sequences: int
    cells: int
    kv_type: str
    flash_attention: bool
    threads: int
    chunk_tokens: int
    offload: bool = False


class Slots:
    """A context without any bookkeeping beyond lengths. Raises OutOfMemoryError."""

    def __init__(self, model: Model, settings: SlotSettings) -> None:
        lib = llama()
        self.settings = settings
        self.lengths = [0] * settings.sequences
        self._num_vocab = model.num_vocab
        self.batch_tokens = max(settings.chunk_tokens, settings.sequences)
        params = lib.llama_context_default_params()
        params.n_ctx = settings.cells * settings.sequences
        params.n_batch = params.n_ubatch = self.batch_tokens
        params.n_seq_max = settings.sequences
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = int(settings.flash_attention)
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.kv_unified = False
        params.no_perf = True
        params.offload_kqv = params.op_offload = settings.offload
        self._handle = lib.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise OutOfMemoryError(f"no memory for {settings.sequences} sequences of {settings.cells} tokens each")
        self._memory = lib.llama_get_memory(self._handle)
        self._batch = lib.llama_batch_init(self.batch_tokens, 0, 1)

    def set_threads(self, threads: int) -> None:
        llama().llama_set_n_threads(self._handle, threads, threads)

    def evaluate(self, *parts: Part) -> list[FloatArray]:
        """One batch; per part a copy of its logits, (1 or tokens) x vocabulary. Raises EngineError."""
        batch, index = self._batch, 0
        batch.n_tokens = sum(len(part.tokens) for part in parts)
        outputs: list[list[int]] = []
        for part in parts:
            first, last = index, len(part.tokens) - 1
            for i, token in enumerate(part.tokens):
                batch.token[index] = token
                batch.pos[index] = self.lengths[part.slot] + i
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = part.slot
                batch.logits[index] = part.all_logits or i == last
                index += 1
            outputs.append(list(range(first, index)) if part.all_logits else [index - 1])
        if status := llama().llama_decode(self._handle, batch):
            raise EngineError(f"llama.cpp could not evaluate {batch.n_tokens} tokens (status {status})")
        for part in parts:
            self.lengths[part.slot] += len(part.tokens)
        return [np.stack([self._row(i) for i in rows]) for rows in outputs]

    def _row(self, index: int) -> FloatArray:
        pointer = ctypes.cast(llama().llama_get_logits_ith(self._handle, index), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (self._num_vocab,))

    def cut(self, slot: int, num_tokens: int = 0) -> None:
        """Drop all cells behind the first `num_tokens`. Raises EngineError when the cache cannot."""
        if not llama().llama_memory_seq_rm(self._memory, slot, num_tokens, -1):
            raise EngineError(f"the cache cannot drop cells behind {num_tokens} tokens")
        self.lengths[slot] = num_tokens

    def save(self, slot: int) -> Saved:
        lib = llama()
        size = lib.llama_state_seq_get_size(self._handle, slot)
        buffer = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._handle, buffer, size, slot)
        return Saved(ctypes.string_at(buffer, written), self.lengths[slot])

    def restore(self, slot: int, saved: Saved) -> None:
        """Replace what a slot holds. Raises EngineError."""
        self.cut(slot)
        buffer = (ctypes.c_uint8 * len(saved.data)).from_buffer_copy(saved.data)
        if llama().llama_state_seq_set_data(self._handle, buffer, len(saved.data), slot) != len(saved.data):
            raise EngineError("llama.cpp refused a saved sequence")
        self.lengths[slot] = saved.num_tokens

    def close(self) -> None:
        llama().llama_batch_free(self._batch)
        llama().llama_free(self._handle)

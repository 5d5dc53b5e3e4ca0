"""One sequence in one llama.cpp context: evaluates spans, remembers their shapes, exchanges its KV cache."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.core.errors import EngineError, OutOfMemoryError
from edgeagent.execution import canonical
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.model import Model

SEQUENCE = 0


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """`chunk_tokens` is the canonical prefill chunk and the largest batch; `offload` lets a GPU take part."""

    context_tokens: int
    kv_type: str
    flash_attention: bool
    threads: int
    chunk_tokens: int
    offload: bool = False


class Context:
    """`tokens` are in the cache, evaluated in batches of `spans`."""

    def __init__(self, model: Model, settings: ContextSettings) -> None:
        lib = llama()
        self.model = model
        self.settings = settings
        self.tokens: list[int] = []
        self.spans: list[int] = []
        self.has_logits = False
        self._empty: kv.SequenceState | None = None
        params = lib.llama_context_default_params()
        params.n_ctx = settings.context_tokens
        params.n_batch = params.n_ubatch = settings.chunk_tokens
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = int(settings.flash_attention)
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.kv_unified = False  # several sequences in one unified cache change each other's bits
        params.no_perf = True
        params.offload_kqv = params.op_offload = settings.offload
        self.handle = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise OutOfMemoryError(f"no memory for a context of {settings.context_tokens} tokens; use a smaller one")
        self._memory = lib.llama_get_memory(self.handle)
        self._batch = lib.llama_batch_init(settings.chunk_tokens, 0, 1)

    def set_threads(self, threads: int) -> None:
        """From the next batch on; the bits stay the same whatever the number."""
        llama().llama_set_n_threads(self.handle, threads, threads)

    def prepare(self, tokens: Sequence[int], spans: Sequence[int]) -> int:
        """Keep what the cache already has of `tokens` in these spans, drop the rest; tokens kept."""
        num_tokens, num_spans = canonical.reusable(self.tokens, self.spans, tokens, spans)
        self._truncate(num_tokens, num_spans)
        return num_tokens

    def drop_last_span(self) -> None:
        """Forget the newest span, so that evaluating it again yields its logits."""
        self._truncate(len(self.tokens) - self.spans[-1], len(self.spans) - 1)

    def clear(self) -> None:
        self._truncate(0, 0)

    def _truncate(self, num_tokens: int, num_spans: int) -> None:
        if num_tokens == len(self.tokens):
            return
        if not llama().llama_memory_seq_rm(self._memory, SEQUENCE, num_tokens, -1):
            llama().llama_memory_clear(self._memory, True)  # a sliding window cannot be rewound: start over
            num_tokens = num_spans = 0
        del self.tokens[num_tokens:], self.spans[num_spans:]
        self.has_logits = False

    def evaluate(self, tokens: Sequence[int], *, all_logits: bool = False) -> None:
        """Append one span; afterwards the logits of its last token are there, or of all of them."""
        lib = llama()
        if len(self.tokens) + len(tokens) > self.settings.context_tokens:
            raise EngineError(f"the context of {self.settings.context_tokens} tokens is full; ask for a shorter answer")
        batch, last = self._batch, len(tokens) - 1
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = len(self.tokens) + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = SEQUENCE
            batch.logits[i] = all_logits or i == last
        status = lib.llama_decode(self.handle, batch)
        if status != 0:
            self.clear()
            raise EngineError(f"llama.cpp could not evaluate {len(tokens)} tokens (status {status}); try again")
        self.tokens += tokens
        self.spans.append(len(tokens))
        self.has_logits = True

    def read_state(self) -> kv.SequenceState:
        """The cache as rows (a copy)."""
        lib = llama()
        size = lib.llama_state_seq_get_size(self.handle, SEQUENCE)
        buffer = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self.handle, buffer, size, SEQUENCE)
        return kv.parse(ctypes.string_at(buffer, written))

    def splice(self, tokens: Sequence[int], spans: Sequence[int], blocks: Sequence[tuple[int, bytes]]) -> None:
        """Put blocks made elsewhere behind the cells that are here, so that the cache holds `tokens` in `spans`.

        Raises EngineError if the blocks do not fit in size; the cache is then as it was.
        """
        num_kept = len(tokens) - sum(n for n, _ in blocks)
        kept, num_spans = canonical.reusable(self.tokens, self.spans, tokens, spans)
        if kept < num_kept:
            raise EngineError(f"the cache holds {kept} of the {num_kept} tokens that come before the blocks")
        while kept > num_kept:
            num_spans -= 1
            kept -= spans[num_spans]
        blob = kv.join(self.read_state() if num_kept else self._shape(), num_kept, blocks)
        buffer = (ctypes.c_uint8 * len(blob)).from_buffer_copy(blob)
        if llama().llama_state_seq_set_data(self.handle, buffer, len(blob), SEQUENCE) != len(blob):
            self.clear()
            raise EngineError("llama.cpp refused a rebuilt KV cache; the prompt must be evaluated here")
        self.tokens, self.spans = list(tokens), list(spans)
        self.has_logits = False

    def _shape(self) -> kv.SequenceState:
        """Types and row sizes of the cache, read once from a state of one token."""
        if self._empty is None:
            self.clear()
            self.evaluate([0])
            self._empty = self.read_state()
            self.clear()
        return self._empty

    @property
    def bytes_per_token(self) -> int:
        """Bytes of cache rows a token has; 0 when the cache has no exchangeable layout (sliding windows)."""
        if self.model.has_window or not self.settings.flash_attention:
            return 0
        return self._shape().bytes_per_cell

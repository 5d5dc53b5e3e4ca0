"""A llama.cpp context of several sequences, and batches over them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeagent.core.errors import EngineError, OutOfMemoryError
from edgeagent.execution import canonical
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.adapters import Adapters
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.slots import Slot


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """`context_tokens` of each of `sequences`; `chunk_tokens` is the canonical prefill chunk and the largest batch.

    `is_free`: shapes of batches change no bit here (`core.invariance`). `offload` lets a GPU take part.
    """

    context_tokens: int
    kv_type: str
    flash_attention: bool
    threads: int
    chunk_tokens: int
    offload: bool = False
    sequences: int = 1
    is_free: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """The next tokens of one slot, in a batch."""

    slot: Slot
    tokens: Sequence[int]
    all_logits: bool = False
    """Logits of every token, not only of the last."""
    as_singles: bool = False
    """What comes out is bit for bit what one by one would: so many spans of one token."""


@dataclass(slots=True)
class Context:
    """The sequences share weights and batches, never cells: in one unified cache they change each other's bits."""

    model: Model
    settings: ContextSettings
    handle: object = field(init=False)
    memory: object = field(init=False)
    slots: list[Slot] = field(init=False)
    adapters: Adapters = field(init=False)
    _batch: object = field(init=False)
    _shape: kv.SequenceState | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        lib, settings = llama(), self.settings
        params = lib.llama_context_default_params()
        params.n_ctx = settings.context_tokens * settings.sequences
        params.n_batch = params.n_ubatch = max(settings.chunk_tokens, settings.sequences)
        params.n_seq_max = settings.sequences
        params.n_threads = params.n_threads_batch = settings.threads
        params.flash_attn_type = int(settings.flash_attention)
        params.type_k = params.type_v = KV_TYPES[settings.kv_type]
        params.kv_unified = False
        params.no_perf = True
        params.offload_kqv = params.op_offload = settings.offload
        self.handle = lib.llama_init_from_model(self.model.handle, params)
        if not self.handle:
            raise OutOfMemoryError(f"no memory for a context of {params.n_ctx} tokens; use a smaller one")
        self.memory = lib.llama_get_memory(self.handle)
        self.adapters = Adapters(self.model, self.handle)
        self._batch = lib.llama_batch_init(params.n_batch, 0, 1)
        self.slots = [Slot(self, number) for number in range(settings.sequences)]

    def set_threads(self, threads: int) -> None:
        """From the next batch on. Whether the bits stay the same is the caller's to know (`core.invariance`)."""
        llama().llama_set_n_threads(self.handle, threads, threads)

    def evaluate(self, items: Sequence[Item]) -> list[int]:
        """Append tokens to slots, in one batch. Of each item, the row of its first token (logits: of its last).

        The slots of one batch have one adapter. Raises EngineError; the slots of the batch are empty then.
        """
        for item in items:
            if len(item.slot.tokens) + len(item.tokens) > self.settings.context_tokens:
                limit = self.settings.context_tokens
                raise EngineError(f"the context of {limit} tokens is full; ask for a shorter answer")
        self.adapters.apply(items[0].slot.adapter)
        rows = self._fill(items)
        status = llama().llama_decode(self.handle, self._batch)
        if status != 0:
            for item in items:
                item.slot.clear()
            count = sum(len(item.tokens) for item in items)
            raise EngineError(f"llama.cpp could not evaluate {count} tokens (status {status}); try again")
        for item in items:
            item.slot.note(item.tokens, as_singles=item.as_singles)
        return rows

    def is_canonical(self, adapter: str) -> bool:
        """Whether shapes of batches count: the probe knows nothing of an adapter's matrices."""
        return not self.settings.is_free or bool(adapter)

    def canonical_spans(self, num_prompt: int, num_output: int, adapter: str = "") -> list[int]:
        """How a prompt and an output have to be evaluated; empty: in any shapes."""
        chunk = self.settings.chunk_tokens
        return canonical.spans(num_prompt, num_output, chunk) if self.is_canonical(adapter) else []

    def _fill(self, items: Sequence[Item]) -> list[int]:
        """The row of each item's first token. Rows go by sequence: llama.cpp computes only rising runs of them together
        (`llama_batch_allocr::split_equal`), and others one after the other."""
        batch, row, rows = self._batch, 0, dict[int, int]()
        tokens, positions, logits = batch.token, batch.pos, batch.logits  # type: ignore[attr-defined]
        counts, sequences = batch.n_seq_id, batch.seq_id  # type: ignore[attr-defined]
        for item in sorted(items, key=lambda item: item.slot.number):
            begin, number, last = len(item.slot.tokens), item.slot.number, len(item.tokens) - 1
            rows[number] = row
            for i, token in enumerate(item.tokens):
                tokens[row] = token
                positions[row] = begin + i
                counts[row] = 1
                sequences[row][0] = number
                logits[row] = item.all_logits or i == last
                row += 1
        batch.n_tokens = row  # type: ignore[attr-defined]
        return [rows[item.slot.number] for item in items]

    @property
    def shape(self) -> kv.SequenceState:
        """Types and row sizes of the cache, read once from a state of one token in an empty slot.

        Raises EngineError for a layout that is not known.
        """
        if self._shape is None:
            slot = next(s for s in self.slots if not s.is_busy)
            slot.clear()
            slot.evaluate([0])
            self._shape = kv.shape_of(slot.state_bytes(), KV_TYPES[self.settings.kv_type])
            slot.clear()
        return self._shape

    @property
    def planes(self) -> list[int]:
        """Row bytes of K of every layer, then of V; empty when the cache has no exchangeable layout."""
        if self.model.has_window or not self.settings.flash_attention:
            return []  # a sliding window has two caches, and without flash attention values are transposed
        return [plane.row_bytes for plane in self.shape.planes]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of cache rows a token has; 0 when the cache has no exchangeable layout."""
        return sum(self.planes)

    def close(self) -> None:
        """Free it; nothing of it may be used any more. A worker's own context goes with its process."""
        llama().llama_batch_free(self._batch)
        llama().llama_free(self.handle)

"""Evaluates windows of text, each from an empty cache: for what is measured rather than generated."""

from collections.abc import Iterator, Sequence

import numpy as np

from edgeagent.core.errors import OutOfMemoryError, RequestError
from edgeagent.execution.llama.library import KV_TYPES, llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.observing import Guard, Observer, decode
from edgeagent.execution.llama.tensors import FloatArray

MAX_BATCH_TOKENS, MIN_BATCH_TOKENS = 512, 16
"""512 is llama.cpp's own physical batch; importance matrices leave out batches of fewer than 16."""
MAX_LOGIT_BYTES = 128 * 2**20
"""Bounds a batch: logits of 512 tokens over a vocabulary of 262,144 would take 512 MiB."""
TEXT_BYTES_PER_TOKEN = 64
"""So much text is tokenized for each token that is wanted; English has about 4 bytes a token."""


def batch_tokens(window_tokens: int, num_vocab: int) -> int:
    """Tokens a batch, halved from the window until logits of all of them are bounded."""
    size = min(window_tokens, MAX_BATCH_TOKENS)
    while size > MIN_BATCH_TOKENS and size * num_vocab * 4 > MAX_LOGIT_BYTES:
        size //= 2
    return size


def cut(model: Model, text: bytes, window_tokens: int, max_windows: int) -> list[list[int]]:
    """`text` as windows of tokens, the begin token at the front of each where the model wants one.

    As llama.cpp's perplexity and imatrix tools do it: the whole text is tokenized at once, what does not fill a
    window is left out, and the begin token *replaces* a window's first. Raises RequestError for too little text.
    """
    enough = max_windows * window_tokens * TEXT_BYTES_PER_TOKEN
    prefix = text[:enough].decode(errors="ignore").removesuffix("\n")
    tokens = model.tokenize(prefix, add_special=True, parse_special=False)
    if len(tokens) < 2 * window_tokens:
        raise RequestError(f"the text has {len(tokens)} tokens, {2 * window_tokens} are needed; give a longer one")
    count = min(max_windows, len(tokens) // window_tokens)
    windows = [tokens[i * window_tokens : (i + 1) * window_tokens] for i in range(count)]
    if model.adds_bos:
        for window in windows:
            window[0] = int(llama().llama_vocab_bos(model.vocab))
    return windows


class Windows:
    """One context for windows of up to `window_tokens`. Raises OutOfMemoryError."""

    def __init__(
        self,
        model: Model,
        *,
        window_tokens: int,
        threads: int,
        flash_attention: bool = False,
        observer: Observer | None = None,
    ) -> None:
        lib = llama()
        self._num_vocab = model.num_vocab
        self._batch_tokens = batch_tokens(window_tokens, model.num_vocab)
        self._observer = observer
        self._guard = Guard(observer) if observer else None
        params = lib.llama_context_default_params()
        params.n_ctx = window_tokens
        params.n_batch = params.n_ubatch = self._batch_tokens
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash_attention)
        params.type_k = params.type_v = KV_TYPES["f16"]
        params.no_perf = True
        if self._guard:
            params.cb_eval = self._guard.pointer
        self._handle = lib.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise OutOfMemoryError(f"no memory for a window of {window_tokens} tokens; use a smaller one")
        self._memory = lib.llama_get_memory(self._handle)
        self._batch = lib.llama_batch_init(self._batch_tokens, 0, 1)

    def evaluate(self, tokens: Sequence[int], first_output: int = 0) -> Iterator[FloatArray]:
        """Evaluate a window; after each batch, the logits of its tokens from `first_output` on.

        The array is the context's own memory: it holds until the next batch.
        """
        llama().llama_memory_clear(self._memory, True)
        for begin in range(0, len(tokens), self._batch_tokens):
            part = tokens[begin : begin + self._batch_tokens]
            outputs = [begin + i >= first_output for i in range(len(part))]
            if self._observer:
                self._observer.begin()
            decode(self._handle, self._batch, part, begin, outputs, self._guard)
            yield self._logits(sum(outputs))

    def _logits(self, num_rows: int) -> FloatArray:
        if not num_rows:
            return np.empty((0, self._num_vocab), np.float32)
        return np.ctypeslib.as_array(llama().llama_get_logits(self._handle), (num_rows, self._num_vocab))

    def close(self) -> None:
        llama().llama_batch_free(self._batch)
        llama().llama_free(self._handle)

"""Draws tokens: llama.cpp's filters, then one draw keyed by `(seed, position)`.

A draw depends on the logits, the seed and the position only, never on earlier draws, so whoever holds the same
logits draws the same token. (llama.cpp's own `dist` sampler carries a running state; it is made anew a token.)
"""

import ctypes
import hashlib
import math
import re
import struct
from itertools import accumulate

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.library import llama

GRAMMAR_ROOT = b"root"
MAX_GRAMMAR_DEPTH = 200
"""Brackets inside brackets: llama.cpp's parser recurses once for each, and 20,000 end the process."""

_NOT_BRACKETS = re.compile(r'"(?:\\.|[^"\\])*"?|\[(?:\\.|[^\]\\])*\]?|#[^\n]*')


def draw_seed(seed: int, position: int) -> int:
    """The 32-bit seed of one draw: BLAKE2b of (seed, position)."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=4).digest()
    return int.from_bytes(digest, "little")


class Sampler:
    """The draws of one Generation. `accept` must see every token that was not drawn here, in order."""

    def __init__(self, context: Context, sampling: Sampling) -> None:
        self._context = context
        self._sampling = sampling
        self._filters = _filters(sampling)
        self._grammar = _grammar(context, sampling.grammar) if sampling.grammar is not None else None

    def accept(self, token: int) -> None:
        """Raises EngineError for a token that the grammar does not take: llama.cpp would abort the process."""
        if self._grammar is None:
            return
        if not self._is_allowed(token):
            raise EngineError(f"token id {token} does not obey the grammar; ask again")
        llama().llama_sampler_accept(self._grammar, token)

    def draw(self, position: int) -> int:
        """The token at output `position`, from the context's newest logits."""
        chain = llama().llama_sampler_chain_init(llama().llama_sampler_chain_default_params())
        for part in self._filters:
            llama().llama_sampler_chain_add(chain, llama().llama_sampler_clone(part))
        llama().llama_sampler_chain_add(chain, self._last(position))
        try:
            token = int(llama().llama_sampler_sample(chain, self._context.handle, -1))
            if not self._is_allowed(token):
                token = self._draw_allowed(chain)
        finally:
            llama().llama_sampler_free(chain)
        self.accept(token)
        return token

    def _last(self, position: int) -> object:
        if self._sampling.temperature == 0:
            return llama().llama_sampler_init_greedy()
        return llama().llama_sampler_init_dist(draw_seed(self._sampling.seed, position))

    def _is_allowed(self, token: int) -> bool:
        """Whether the grammar takes this token: asked of one candidate, which is cheap."""
        if self._grammar is None:
            return True
        one = (llama().llama_token_data * 1)(llama().llama_token_data(token, 1.0, 0.0))
        candidates = llama().llama_token_data_array(one, 1, -1, False)
        llama().llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        return not math.isinf(one[0].logit)

    def _draw_allowed(self, chain: object) -> int:
        """Draw again, from those tokens only that the grammar takes."""
        import numpy as np

        count = self._context.model.num_vocab
        logits = np.ctypeslib.as_array(llama().llama_get_logits_ith(self._context.handle, -1), (count,))
        table = np.zeros(count, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        table["id"], table["logit"] = np.arange(count), logits
        data = ctypes.cast(table.ctypes.data, ctypes.POINTER(llama().llama_token_data))
        candidates = llama().llama_token_data_array(data, count, -1, False)
        llama().llama_sampler_apply(self._grammar, ctypes.byref(candidates))
        llama().llama_sampler_apply(chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)

    def close(self) -> None:
        for part in [*self._filters, *([self._grammar] if self._grammar is not None else [])]:
            llama().llama_sampler_free(part)
        self._filters, self._grammar = [], None


def _filters(sampling: Sampling) -> list[object]:
    if sampling.temperature == 0:
        return []
    lib = llama()
    parts = [lib.llama_sampler_init_top_k(sampling.top_k)] if sampling.top_k else []
    parts.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    parts.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
    parts.append(lib.llama_sampler_init_temp(sampling.temperature))
    return parts


def _grammar(context: Context, text: str) -> object:
    if _depth(text) > MAX_GRAMMAR_DEPTH:
        raise RequestError(f"the grammar nests brackets over {MAX_GRAMMAR_DEPTH} deep; use rules instead")
    made = llama().llama_sampler_init_grammar(context.model.vocab, text.encode(), GRAMMAR_ROOT)
    if not made:
        raise RequestError("the grammar cannot be parsed; give GBNF with a rule named 'root'")
    return made


def _depth(grammar: str) -> int:
    """How deep round brackets nest, outside of literals, character classes and comments."""
    brackets = _NOT_BRACKETS.sub("", grammar)
    return max(accumulate((c == "(") - (c == ")") for c in brackets), default=0)

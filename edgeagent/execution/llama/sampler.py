"""Draws tokens: llama.cpp's parts, then one draw keyed by `(seed, position)`.

A draw depends on the logits, the seed, the position and the tokens before it, never on earlier draws, so whoever
holds the same logits and the same journal draws the same token. (llama.cpp's own `dist` sampler carries a running
state; it is made anew a token.)
"""

import ctypes
import hashlib
import math
import struct
from collections.abc import Sequence

from edgeagent.core.errors import EngineError
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama import candidates, parts
from edgeagent.execution.llama.candidates import HasLogits
from edgeagent.execution.llama.library import llama, release
from edgeagent.execution.llama.model import Model


def draw_seed(seed: int, position: int) -> int:
    """The 32-bit seed of one draw: BLAKE2b of (seed, position)."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=4).digest()
    return int.from_bytes(digest, "little")


class Sampler:
    """The draws of one Generation, whose prompt is `prompt`. `accept` must see every token not drawn here, in order."""

    def __init__(self, context: HasLogits, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self._context = context
        self._sampling = sampling
        self._bias = parts.bias(context.model, sampling)
        self._penalties = parts.penalties(context.model, sampling)
        self._filters = parts.filters(sampling)
        self._grammar = parts.grammar(context.model, sampling)
        for token in prompt[-sampling.penalty_window :] if self._penalties else ():
            llama().llama_sampler_accept(self._penalties, token)

    def accept(self, token: int) -> None:
        """Raises EngineError for a token that the grammar does not take: llama.cpp would abort the process."""
        if not self._is_allowed(token):
            raise EngineError(f"token id {token} does not obey the grammar; ask again")
        for part in (self._penalties, self._grammar):
            if part is not None:
                llama().llama_sampler_accept(part, token)

    @property
    def model(self) -> Model:
        return self._context.model

    def draw(self, position: int, row: int = -1) -> int:
        """The token at output `position`, from the logits of a row of the newest batch.

        Drawn as if there were no grammar; if the grammar refuses that token, drawn again from what it takes.
        """
        token = self._draw_free(position, row)
        if not self._is_allowed(token):
            token = self._draw_allowed(position, row)
        self.accept(token)
        return token

    def _draw_free(self, position: int, row: int) -> int:
        if self._sampling.temperature == 0 and self._penalties is None:
            return candidates.likeliest(self._logits(row), self._sampling.logit_bias)
        if self._penalties is not None and not release().copies_penalise:
            return self._select(candidates.whole(self._adjusted(row)), position)
        chain = self._chain([*self._adjustments, *self._filters], position)
        try:
            return int(llama().llama_sampler_sample(chain, self._context.handle, row))
        finally:
            llama().llama_sampler_free(chain)

    def logprobs(self, token: int, row: int = -1) -> dict[str, object]:
        """`logprob` of a token at a row's logits, and `top`, `[id, hexadecimal bytes, logprob]` each; or nothing."""
        if self._sampling.logprobs is None:
            return {}
        logprob, top = candidates.logprobs(self._logits(row), token, self._sampling.logprobs)
        return {"logprob": logprob, "top": [[t, self._context.model.piece(t).hex(), p] for t, p in top]}

    @property
    def _adjustments(self) -> list[object]:
        return [part for part in (self._bias, self._penalties) if part is not None]

    def _chain(self, members: Sequence[object], position: int) -> object:
        """The caller frees it. The members are copied: a chain owns what it holds, and sampling changes it."""
        lib = llama()
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for part in members:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_clone(part))
        lib.llama_sampler_chain_add(chain, self._last(position))
        return chain

    def _last(self, position: int) -> object:
        if self._sampling.temperature == 0:
            return llama().llama_sampler_init_greedy()
        return llama().llama_sampler_init_dist(draw_seed(self._sampling.seed, position))

    def _is_allowed(self, token: int) -> bool:
        """Whether the grammar takes this token: asked of one candidate, which is cheap."""
        if self._grammar is None:
            return True
        one = (llama().llama_token_data * 1)(llama().llama_token_data(token, 1.0, 0.0))
        data = llama().llama_token_data_array(one, 1, -1, False)
        llama().llama_sampler_apply(self._grammar, ctypes.byref(data))
        return not math.isinf(one[0].logit)

    def _draw_allowed(self, position: int, row: int) -> int:
        table = candidates.allowed(self._adjusted(row), self._grammar, self._sampling)
        if not len(table):
            raise EngineError("no token of this model's vocabulary continues the grammar here; loosen the grammar")
        return self._select(table, position)

    def _adjusted(self, row: int) -> "candidates.Floats":
        return candidates.adjusted(self._logits(row), self._adjustments)

    def _select(self, table: "candidates.Table", position: int) -> int:
        chain = self._chain(self._filters, position)
        try:
            return candidates.selected(table, chain)
        finally:
            llama().llama_sampler_free(chain)

    def _logits(self, row: int) -> "candidates.Floats":
        return candidates.logits(self._context, row)

    def close(self) -> None:
        for part in [*self._adjustments, *self._filters, *([self._grammar] if self._grammar is not None else [])]:
            llama().llama_sampler_free(part)
        self._bias = self._penalties = self._grammar = None
        self._filters = []

"""A small model beside a large one, which drafts what the large one will probably say."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from edgeagent.core.errors import ModelFileError
from edgeagent.core.generation import Sampling
from edgeagent.execution.batch_costs import BatchCosts
from edgeagent.execution.canonical import common_prefix
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.sampler import Sampler

MAX_CONTEXT = 1024
"""Tokens the draft model remembers; when they are full it begins again with a window."""
WINDOW = 96
"""Tokens of a text that are evaluated to begin with: a draft needs what was said last, and every token costs."""


def check_same_vocabulary(model: Model, draft: Model) -> None:
    """Raises ModelFileError unless every token id means the same in both."""
    if differing := _difference(model, draft):
        raise ModelFileError(f"the draft model has another vocabulary ({differing}); name one of the same family")


def _difference(model: Model, draft: Model) -> str | None:
    lib, one, other = llama(), model.vocab, draft.vocab
    if model.num_vocab != draft.num_vocab:
        return f"{draft.num_vocab} tokens, not {model.num_vocab}"
    for special in ("bos", "eos", "eot", "sep", "nl", "pad"):
        of = getattr(lib, f"llama_vocab_{special}")
        if of(one) != of(other):
            return f"another token for {special}"
    text, kind = lib.llama_vocab_get_text, lib.llama_vocab_get_attr
    for token in range(model.num_vocab):
        if text(one, token) != text(other, token) or kind(one, token) != kind(other, token):
            return f"token {token} is another"
    return None


class DraftModel:
    """Drafts by the draws that the large model will make: keyed by the same seeds, of its own logits.

    It follows one text at a time and evaluates what it lacks of it first.
    """

    def __init__(self, context: Context, size_ratio: float) -> None:
        """`size_ratio`: bytes of weights against the large model's, which foretells the time of a step."""
        self._context = context
        self._slot = context.slots[0]
        self._size_ratio = size_ratio
        self._begin = 0
        self._text: Sequence[int] | None = None
        self.costs = BatchCosts()

    def num_lacking(self, text: Sequence[int]) -> int:
        """Tokens to evaluate before the first guess."""
        begin, kept = self._kept(text)
        return len(text) - begin - kept

    def step_ratio(self, step_s: float | None) -> float:
        """A step of this model in steps of the large one, which take `step_s`."""
        return self.costs.step_s / step_s if self.costs.step_s and step_s else self._size_ratio

    def draft(self, text: Sequence[int], position: int, sampling: Sampling, num_tokens: int) -> list[int]:
        """Guesses of the tokens behind `text`; the first is at output `position`."""
        self._follow(text)
        sampler = Sampler(self._context, plain(sampling))
        guesses: list[int] = []
        try:
            while True:
                guesses.append(sampler.draw(position + len(guesses)))
                if len(guesses) == num_tokens:
                    return guesses
                self._evaluate(guesses[-1:])
        finally:
            sampler.close()

    def _follow(self, text: Sequence[int]) -> None:
        """Evaluate what is lacking, so that the logits are those behind the last token."""
        begin, kept = self._kept(text)
        if begin != self._begin or text is not self._text:
            self._slot.clear()
        elif dropped := len(self._slot.tokens) - kept:
            self._slot.rewind(dropped)
        self._begin, self._text = begin, text
        done, largest = begin + len(self._slot.tokens), self._context.settings.chunk_tokens
        for first, end in pairwise([*range(done, len(text), largest), len(text)]):
            self._evaluate(text[first:end])

    def _kept(self, text: Sequence[int]) -> tuple[int, int]:
        """Where in `text` the cache begins, and how many of its tokens can stay."""
        fresh = max(0, len(text) - WINDOW)
        room = self._context.settings.context_tokens - WINDOW
        if text is not self._text or len(text) - self._begin > room:
            return fresh, 0
        kept = common_prefix(self._slot.tokens, text[self._begin :])
        return self._begin, min(kept, len(text) - self._begin - 1)

    def _evaluate(self, tokens: Sequence[int]) -> None:
        started = time.perf_counter()
        self._slot.evaluate(tokens)
        seconds = time.perf_counter() - started
        if len(tokens) == 1:
            self.costs.observe(1, seconds)
        else:
            self.costs.observe_chunk(len(tokens), seconds)


def plain(sampling: Sampling) -> Sampling:
    """How guesses are drawn: without what needs the whole answer, or its grammar."""
    return Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )


def load_draft_model(context: Context, path: str, *, extra_buffers: bool) -> DraftModel:
    """A draft model for what `context` has loaded, with a context of its own. Raises ModelFileError."""
    model = Model(path, extra_buffers=extra_buffers)
    check_same_vocabulary(context.model, model)
    settings = replace(
        context.settings,
        context_tokens=min(MAX_CONTEXT, model.context_train),
        sequences=1,
        is_free=True,
        offload=False,
    )
    size_ratio = llama().llama_model_size(model.handle) / llama().llama_model_size(context.model.handle)
    return DraftModel(Context(model, settings), size_ratio)

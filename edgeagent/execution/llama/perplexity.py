"""How well a variant predicts a text: perplexity as llama.cpp's tool defines it, and distance to another variant."""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeagent.core.errors import RequestError
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.tensors import FloatArray
from edgeagent.execution.llama.windows import Windows, cut
from edgeagent.execution.worker import Request

ROWS = 16
"""Positions scored at once: their distributions in double precision take 33 MB for a vocabulary of 262,144."""


def log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities, row by row, in double precision."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


@dataclass(slots=True)
class Tally:
    """Sums over the scored positions."""

    count: int = 0
    nll: float = 0.0
    nll_squared: float = 0.0
    kl: float = 0.0
    same_top: int = 0
    has_reference: bool = False

    def add(self, logits: FloatArray, targets: Sequence[int], reference: FloatArray | None) -> None:
        """Score rows of logits, each against the token that follows it in the text."""
        for begin in range(0, len(targets), ROWS):
            end = begin + ROWS
            rows, wanted = logits[begin:end][: len(targets) - begin], np.asarray(targets[begin:end])
            own = log_softmax(rows)
            lost = -own[np.arange(len(wanted)), wanted]
            self.count += len(wanted)
            self.nll += float(lost.sum())
            self.nll_squared += float((lost * lost).sum())
            if reference is not None:
                self._compare(own, log_softmax(reference[begin:end][: len(wanted)]))

    def _compare(self, own: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> None:
        self.has_reference = True
        self.kl += float((np.exp(reference) * (reference - own)).sum())
        self.same_top += int((own.argmax(axis=1) == reference.argmax(axis=1)).sum())

    def facts(self) -> dict[str, Any]:
        """Perplexity with its standard error (as the tool's `+/-`), mean KL in nats, top-1 agreement."""
        mean = self.nll / self.count
        variance = max(0.0, self.nll_squared / self.count - mean * mean)
        perplexity = math.exp(mean)
        return {
            "positions": self.count,
            "perplexity": perplexity,
            "perplexity_error": perplexity * math.sqrt(variance / max(1, self.count - 1)),
            "mean_kl": max(0.0, self.kl / self.count) if self.has_reference else None,
            "top1": self.same_top / self.count if self.has_reference else None,
        }


def perplexity(request: Request) -> Steps:
    """Op `perplexity {path, reference, chunks, context_tokens, threads, extra_buffers, flash_attention}`, text as bulk.

    The first half of each window is context only; of the second half every token but the first is predicted from all
    before it (llama.cpp tools/perplexity). With a `reference` file both are evaluated window by window in one
    process, so the two distributions are compared as they are, unrounded. Event: the facts so far, after each window.
    """
    p = request.params
    size, threads = int(p["context_tokens"]), int(p["threads"])
    if size < 4:
        raise RequestError(f"a context of {size} tokens leaves nothing to predict; use 512")
    with ExitStack() as stack:

        def open_windows(path: str) -> tuple[Model, Windows]:
            model = Model(path, extra_buffers=bool(p["extra_buffers"]))
            flash = bool(p["flash_attention"])
            windows = Windows(model, window_tokens=size, threads=threads, flash_attention=flash)
            return model, stack.enter_context(closing(windows))

        model, own = open_windows(str(p["path"]))
        texts = cut(model, request.bulk, size, int(p["chunks"]))
        reference = None
        if p.get("reference"):
            other, reference = open_windows(str(p["reference"]))
            if other.num_vocab != model.num_vocab:
                raise RequestError("the two files have different vocabularies; compare variants of one model")
        tally = Tally()
        for number, tokens in enumerate(texts, 1):
            yield from _score(tally, own, reference, tokens)
            request.event(done=number, total=len(texts), **tally.facts())
        request.reply(chunks=len(texts), **tally.facts())


def _score(tally: Tally, own: Windows, reference: Windows | None, tokens: Sequence[int]) -> Steps:
    """Both contexts use the same batches, so that their rows belong together."""
    first = len(tokens) // 2
    position = first
    others = reference.evaluate(tokens, first) if reference else None
    for logits in own.evaluate(tokens, first):
        yield
        other = next(others) if others else None
        targets = tokens[position + 1 : position + 1 + len(logits)]
        tally.add(logits, targets, other)
        position += len(logits)
        yield

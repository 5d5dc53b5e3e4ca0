"""How likely a model finds an answer behind a prompt: the mean log-probability of the answer's tokens.

What was computed is kept in a file, by prompt and answer, so that a run that was broken off goes on where it was.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.perplexity import log_softmax
from edgeagent.execution.llama.prompt import encode
from edgeagent.model.surprisal import of_words

if TYPE_CHECKING:
    import numpy.typing as npt

CONTEXT_TOKENS, BATCH_TOKENS = 8192, 256
WORTH_KEEPING = 256
"""A beginning that several prompts share is evaluated once from so many tokens on."""


class Kept:
    """Scores by a hash of what they are of, in a file of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scores: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, key: str) -> float | None:
        return self._scores.get(key)

    def put(self, key: str, score: float) -> None:
        self._scores[key] = score
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self._scores))
        new.replace(self._path)


def vectors_of(path: Path) -> dict[str, bytes]:
    """What was embedded in earlier runs, by text."""
    if not path.is_file():
        return {}
    return {text: base64.b64decode(told) for text, told in json.loads(path.read_text()).items()}


def keep_vectors(path: Path, vectors: Mapping[str, bytes]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps({text: base64.b64encode(vector).decode() for text, vector in vectors.items()}))
    new.replace(path)


class Judge:
    """One model in this process, prompts in its own template."""

    def __init__(self, file: Path, threads: int, kept: Kept, *, extra_buffers: bool) -> None:
        self.name = file.name
        self.model = Model(str(file), extra_buffers=extra_buffers)
        settings = ContextSettings(CONTEXT_TOKENS, "q8_0", True, threads, BATCH_TOKENS, is_free=True)
        self._context = Context(self.model, settings)
        self._slot = self._context.slots[0]
        self._kept = kept

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(self.model.tokenize(t, add_special=False, parse_special=False)) for t in texts]

    def prompt(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        return encode(self.model, [dict(turn) for turn in turns])[0]

    def scores(self, prompts: Sequence[list[int]], answers: Sequence[str]) -> list[float]:
        """One a prompt. What all of them begin with is evaluated once."""
        keys = [self._key(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        blob: bytes | None = None
        shared = _common(prompts) if len(prompts) > 1 else 0
        found = []
        for key, prompt, answer in zip(keys, prompts, answers, strict=True):
            score = self._kept.get(key)
            if score is None:
                if blob is None and shared >= WORTH_KEEPING:
                    blob = self._state_of(prompt[:shared])
                self._begin(prompt[:shared], blob)
                self._kept.put(key, score := self._score(prompt, answer))
            found.append(score)
        return found

    def bits(self, text: str) -> list[float]:
        """Surprisal of each word of a text, alone."""
        tokens = self.model.tokenize(text, add_special=False, parse_special=False)
        sizes = [len(self.model.piece(token)) for token in tokens]
        self._slot.clear()
        row = self._slot.evaluate(tokens[:BATCH_TOKENS], all_logits=True)
        told = log_softmax(np.stack([self._row(row + i) for i in range(len(tokens) - 1)])) if len(tokens) > 1 else None
        bits = [None, *(float(-told[i, t] / np.log(2)) for i, t in enumerate(tokens[1:]) if told is not None)]
        return of_words(text, list(zip(sizes, bits, strict=True)))

    def _key(self, prompt: list[int], answer: str) -> str:
        told = json.dumps([self.name, prompt, answer]).encode()
        return hashlib.blake2b(told, digest_size=12).hexdigest()

    def _begin(self, tokens: list[int], blob: bytes | None) -> None:
        self._slot.clear()
        if blob is not None:
            self._slot.set_state(bytearray(blob))
            self._slot.tokens = list(tokens)

    def _state_of(self, tokens: list[int]) -> bytes:
        self._slot.clear()
        self._evaluate(tokens)
        return bytes(self._slot.state_bytes())

    def _evaluate(self, tokens: list[int]) -> None:
        while (done := len(self._slot.tokens)) < len(tokens):
            self._slot.evaluate(tokens[done : done + BATCH_TOKENS])

    def _score(self, prompt: list[int], answer: str) -> float:
        wanted = self.model.tokenize(answer, add_special=False, parse_special=False)
        self._evaluate(prompt[:-1])
        row = self._slot.evaluate([prompt[-1], *wanted[:-1]], all_logits=True)
        told = log_softmax(np.stack([self._row(row + i) for i in range(len(wanted))]))
        return float(told[np.arange(len(wanted)), wanted].mean())

    def _row(self, row: int) -> "npt.NDArray[np.float32]":
        found = llama().llama_get_logits_ith(self._context.handle, row)
        return np.ctypeslib.as_array(found, (self.model.num_vocab,)).copy()


def _common(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with, less than the shortest of them."""
    shortest, first = min(map(len, prompts)) - 1, prompts[0]
    return next((i for i in range(shortest) if any(p[i] != first[i] for p in prompts)), shortest)

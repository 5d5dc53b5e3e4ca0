"""What dropping positions from the cache (reduction L5) costs and saves, in one process with llama.cpp, paired.

For each text one code is hidden in prose of this project and asked for: with the whole cache, without the half of the
positions that the prompt's end attends to least, and without as many at random (sinks and end stay there, too).
`logprob_change` compares the log-probability of the right code, a token, behind pruned and whole prompts.
`decode_ratio` is CPU time of an answer token behind a whole prompt over that behind a pruned one, taken in turns.
"""

import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import harness
import numpy as np

from edgeagent.core.generation import Span
from edgeagent.execution import canonical
from edgeagent.execution.llama import candidates
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.slots import Slot
from edgeagent.execution.llama.watch import attention_of
from edgeagent.execution.pruning import WINDOW, num_droppable, weakest

SHARE = 0.5
CHUNK, ANSWER_TOKENS, TIMED_TOKENS, ROUNDS = 64, 14, 16, 4
LENGTHS = (1000, 2000, 3000)
"""Prompt tokens at which decoding is timed."""
TEXT = harness.ROOT / "docs/protocol.md"
SEED = 20
BLAS = "OPENBLAS_NUM_THREADS"
QUESTION = "What is the access code mentioned in the text above?"


@dataclass(slots=True)
class Bench:
    context: Context
    found: dict[str, int] = field(default_factory=lambda: {"full": 0, "pruned": 0, "random": 0})
    changes: dict[str, list[float]] = field(default_factory=lambda: {"pruned": [], "random": []})

    @property
    def slot(self) -> Slot:
        return self.context.slots[0]

    def fill(self, tokens: Sequence[int]) -> None:
        self.slot.clear()
        for length in canonical.spans(len(tokens), 0, CHUNK):
            done = len(self.slot.tokens)
            self.slot.evaluate(tokens[done : done + length])

    def logits(self) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        return candidates.logits(self.context).copy()

    def restore(self, tokens: Sequence[int], state: bytes, gone: Sequence[Span]) -> None:
        self.slot.clear()
        self.slot.set_state(bytearray(state))
        self.slot.note(tokens)
        if gone:
            self.slot.prune(gone)

    def answer(self, first: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> str:
        """Greedy; `first` are the logits behind the prompt."""
        model, logits, pieces = self.context.model, first, b""
        for _ in range(ANSWER_TOKENS):
            token = int(logits.argmax())
            if model.is_end(token):
                break
            pieces += model.piece(token)
            self.slot.evaluate([token])
            logits = self.logits()
        return pieces.decode(errors="replace")

    def logprob(self, first: "np.ndarray[tuple[int], np.dtype[np.float32]]", tokens: Sequence[int]) -> float:
        """Mean a token."""
        logits, total = first, 0.0
        for token in tokens:
            total += float(logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
            self.slot.evaluate([token])
            logits = self.logits()
        return total / len(tokens)

    def retrieve(self, tokens: Sequence[int], code: str, draw: random.Random) -> None:
        self.fill(tokens)
        first, state, count = self.logits(), bytes(self.slot.state_bytes()), num_droppable(len(tokens), SHARE)
        scores = {
            "pruned": attention_of(self.context, self.slot, WINDOW),
            "random": [draw.random() for _ in tokens],
        }
        ways: dict[str, list[Span]] = {"full": []} | {name: weakest(s, count) for name, s in scores.items()}
        right = self.context.model.tokenize(f" {code}", add_special=False, parse_special=False)
        logprobs = dict[str, float]()
        for name, gone in ways.items():
            self.restore(tokens, state, gone)
            self.found[name] += code in self.answer(first)
            self.restore(tokens, state, gone)
            logprobs[name] = self.logprob(first, right)
        for name, changes in self.changes.items():
            changes.append(logprobs[name] - logprobs["full"])

    def timed(self, tokens: Sequence[int]) -> tuple[list[float], float]:
        """Ratios, a pair each, and CPU seconds of looking at the attention and dropping, for a token of prefill."""
        started = time.process_time()
        self.fill(tokens)
        prefill_s = time.process_time() - started
        state, count = bytes(self.slot.state_bytes()), num_droppable(len(tokens), SHARE)
        started = time.process_time()
        gone = weakest(attention_of(self.context, self.slot, WINDOW), count)
        self.slot.prune(gone)
        share = (time.process_time() - started) / prefill_s
        ratios = []
        for turn in range(ROUNDS):
            seconds = dict[bool, float]()
            for is_pruned in (turn % 2 == 0, turn % 2 == 1):
                self.restore(tokens, state, gone if is_pruned else ())
                seconds[is_pruned] = self._decode_s()
            ratios.append(seconds[False] / seconds[True])
        return ratios, share

    def _decode_s(self) -> float:
        self.slot.evaluate([1])
        started = time.process_time()
        for token in range(100, 100 + TIMED_TOKENS):
            self.slot.evaluate([token])
        return time.process_time() - started


def prompts(model: Model, count: int, draw: random.Random) -> Iterator[tuple[list[int], str]]:
    """Chat prompts of some 800 to 1,300 tokens with a code of 5 to 9 digits at the end of some line."""
    text = TEXT.read_text()
    for _ in range(count):
        code = str(draw.randrange(10 ** draw.randint(4, 8), 10**9))
        begin = draw.randrange(len(text) - 3500)
        lines = text[begin : begin + 3500].split("\n")
        lines.insert(draw.randrange(1, len(lines)), f"The access code is {code}. Keep it in mind.")
        body = "\n".join(lines)
        chat = f"<|im_start|>user\n{body}\n\n{QUESTION}<|im_end|>\n<|im_start|>assistant\nThe access code is"
        yield model.tokenize(chat, add_special=False, parse_special=True), code


def main() -> None:
    options = harness.options(__doc__)
    if os.environ.get(BLAS) != "1":  # as in a worker; numpy, which is loaded already, reads it only once
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {BLAS: "1"})  # noqa: S606
    started, draw = time.monotonic(), random.Random(SEED)
    model = Model(str(harness.chat_model_file()), extra_buffers=False)
    bench = Bench(Context(model, ContextSettings(3200, "q8_0", True, 1, CHUNK, is_free=True)))
    count, lengths = (8, LENGTHS[:2]) if options.quick else (24, LENGTHS)
    for number, (tokens, code) in enumerate(prompts(model, count, draw), 1):
        bench.retrieve(tokens, code, draw)
        harness.progress(f"code {number} of {count}, {len(tokens)} tokens: {bench.found}")
    prose = model.tokenize(TEXT.read_text(), add_special=False, parse_special=False)
    times = {length: bench.timed(prose[:length]) for length in lengths}
    figures: harness.Json = {f"codes_found_{name}": count_ for name, count_ in bench.found.items()} | {"codes": count}
    for name, changes in bench.changes.items():
        figures[f"logprob_change_{name}"] = round(sum(changes) / len(changes), 3)
    for length, (ratios, share) in times.items():
        figures[f"decode_ratio_{length}"] = round(harness.percentile(ratios, 0.5), 3)
        figures[f"pruning_of_prefill_{length}"] = round(share, 3)
    conditions = {
        "dropped_share": SHARE,
        "settings": "q8_0 cache, flash attention, 1 thread",
        "text": f"{TEXT.name}, seed {SEED}",
        "logprob_spread": {name: harness.spread(changes) for name, changes in bench.changes.items()},
        "decode_spread": {length: harness.spread(ratios) for length, (ratios, _) in times.items()},
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish(Path(__file__).stem, figures, conditions, as_json=options.json)


if __name__ == "__main__":
    main()

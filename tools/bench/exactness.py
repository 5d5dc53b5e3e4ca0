"""Is a cache that a peer made the same as one made here? Logits and words, for every meeting point.

A prompt is prefilled whole in one context. In another, only its front is; the rest is taken from the first one's
exported blocks, as plan `prefill` does. The next token's logits, and the words after it, are compared. So are
generations that are resumed from their journal at random tokens. What is cut into stages: see `exactness_split`.

`--release` is the extent that `tools/exactness_releases.py` runs with every release of the engine that is known.
"""

import random
import time

import exactness_split
import harness
from exactness_stages import Size

from edgeagent.core.generation import Sampling
from edgeagent.execution import canonical
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.build import engine_build
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.library import llama, system_info
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.sampler import Sampler

CHUNK = 64
EXTENTS: dict[Size, tuple[tuple[int, ...], int]] = {
    "full": ((63, 64, 65, 128, 129, 300, 700, 1024), 32),
    "release": ((64, 300), 32),
    "quick": ((63, 65, 129, 300), 12),
}
"""Tokens of prompts, and behind each."""
SEED = 11
KV_TYPES = ("q8_0", "f16")
PARTS = ("caches", "stages")


class Exactness:
    """Two contexts of one model: `whole` evaluates everything itself, `mixed` takes blocks from it."""

    def __init__(self, model: Model, kv_type: str, num_continued: int) -> None:
        settings = ContextSettings(2048, kv_type, flash_attention=True, threads=1, chunk_tokens=CHUNK)
        self._whole, self._mixed = Context(model, settings), Context(model, settings)
        self._num_continued = num_continued
        self.max_abs_logit = 0.0
        self.compared = self.kv_mismatches = self.resumed = self.resume_mismatches = 0

    def run(self, prompt: list[int], draw: random.Random) -> None:
        for temperature in (0.0, 0.8):
            sampling = Sampling(temperature=temperature, seed=draw.randrange(2**32))
            expected = self._continue(self._whole, prompt, [], sampling)
            blocks = self._blocks(prompt)
            num_blocks = len(blocks)
            for first in sorted({0, num_blocks // 2, num_blocks - 1}):
                self._meet(prompt, blocks, first)
                self._compare(prompt, expected, sampling)
            at = draw.randrange(1, len(expected))
            self.resumed += 1
            self._mixed.slots[0].clear()
            again = self._continue(self._mixed, prompt, expected[:at], sampling)
            self.resume_mismatches += again != expected

    def _blocks(self, prompt: list[int]) -> list[tuple[int, bytes]]:
        self._evaluate(self._whole, prompt, [])
        state = self._whole.slots[0].read_state()
        ranges = [canonical.block_range(i, len(prompt), CHUNK) for i in range(canonical.num_blocks(len(prompt), CHUNK))]
        return [(end - first, kv.cut_block(state, first, end)) for first, end in ranges]

    def _meet(self, prompt: list[int], blocks: list[tuple[int, bytes]], first: int) -> None:
        """`mixed` evaluates the blocks before `first` and is given the others."""
        self._mixed.slots[0].clear()
        for i in range(first):
            self._mixed.slots[0].evaluate(prompt[i * CHUNK : (i + 1) * CHUNK])
        self._mixed.slots[0].splice(prompt, canonical.spans(len(prompt), 0, CHUNK), blocks[first:])

    def _compare(self, prompt: list[int], expected: list[int], sampling: Sampling) -> None:
        self._evaluate(self._whole, prompt, expected[:1])
        self._evaluate(self._mixed, prompt, expected[:1])
        difference = abs(self._logits(self._whole) - self._logits(self._mixed)).max()
        self.max_abs_logit = max(self.max_abs_logit, float(difference))
        self.compared += 1
        self.kv_mismatches += self._continue(self._mixed, prompt, expected[:1], sampling) != expected

    def _continue(self, context: Context, prompt: list[int], output: list[int], sampling: Sampling) -> list[int]:
        made = list(output)
        self._evaluate(context, prompt, made)
        sampler = Sampler(context, sampling)
        while len(made) < self._num_continued:
            made.append(sampler.draw(len(made)))
            context.slots[0].evaluate(made[-1:])
        sampler.close()
        return made

    def _evaluate(self, context: Context, prompt: list[int], output: list[int]) -> None:
        shape = canonical.spans(len(prompt), len(output), CHUNK)
        wanted, slot = prompt + output, context.slots[0]
        done = slot.prepare(wanted, shape)
        for length in shape[len(slot.spans) :]:
            slot.evaluate(wanted[done : done + length])
            done += length

    def _logits(self, context: Context):  # type: ignore[no-untyped-def]  # numpy only comes with the engine
        import numpy as np

        found = llama().llama_get_logits_ith(context.handle, -1)
        return np.ctypeslib.as_array(found, (context.model.num_vocab,)).copy()


def exchange(model: Model, size: Size) -> tuple[harness.Json, harness.Json]:
    """Figures and conditions of caches that are made in two places, and of answers that are resumed."""
    text = (harness.ROOT / "LICENSE").read_text() + (harness.ROOT / "tools/data/house-notes.md").read_text()
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    lengths, continued = EXTENTS[size]
    per_type = {}
    for kv_type in KV_TYPES:
        bench = Exactness(model, kv_type, continued)
        draw = random.Random(SEED)
        for length in lengths:
            begin = draw.randrange(len(tokens) - length)
            bench.run(tokens[begin : begin + length], draw)
            harness.progress(f"{kv_type}: {length} tokens, {bench.compared} compared")
        per_type[kv_type] = bench
    figures = {
        "kv_max_abs_logit": max(b.max_abs_logit for b in per_type.values()),
        "kv_token_mismatches": sum(b.kv_mismatches for b in per_type.values()),
        "resume_token_mismatches": sum(b.resume_mismatches for b in per_type.values()),
    }
    facts = {
        name: {"caches": b.compared, "max_abs_logit": b.max_abs_logit, "resumed": b.resumed}
        for name, b in per_type.items()
    }
    return figures, {"by_cache_type": facts, "prompt_tokens": lengths, "continuation_tokens": continued}


def main() -> None:
    parser, started = harness.parser(__doc__), time.monotonic()
    parser.add_argument("--release", action="store_true", help="fewer cuts, prompts and documents, as many steps")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be given twice")
    options = parser.parse_args()
    size: Size = "quick" if options.quick else "release" if options.release else "full"
    parts = tuple(options.part or PARTS)
    file = harness.chat_model_file()
    figures, conditions = harness.Json(), harness.Json()
    if "caches" in parts:
        found = exchange(Model(str(file), extra_buffers=harness.repacks_weights()), size)
        figures, conditions = found
    if "stages" in parts:
        found = exactness_split.run(file, size)
        figures, conditions = figures | found[0], conditions | found[1]
    own = {
        "variant": file.name,
        "flash_attention": True,
        "chunk_tokens": CHUNK,
        "extent": size,
        "parts": parts,
        "engine": f"llama-cpp-python {engine_build()}",
        "engine_system": system_info(),
        "extra_buffers": harness.repacks_weights(),
        "seed": SEED,
        "took_s": round(time.monotonic() - started, 1),
    }
    harness.publish("exactness", figures, conditions | own, as_json=options.json)


if __name__ == "__main__":
    main()

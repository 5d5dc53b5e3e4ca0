"""Texts, stages and contexts that the parts of the bench `exactness` share."""

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import harness
import numpy as np
import numpy.typing as npt

from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.stage_context import Part, StageContext
from edgeagent.execution.supervisor import Worker
from edgeagent.model.slicing import padding_of

FloatArray = npt.NDArray[np.float32]
Size = Literal["full", "release", "quick"]
"""How much is compared: all, what every known release of the engine is tried with, or a sample."""

CHUNK, NUM_PROMPT = 64, 200
CONTEXT = 256
PIECE_BYTES = 4000
"""Enough text for a prompt."""
HIDDEN_IN = Part(takes_hidden=True)


def documents(count: int, seed: int) -> tuple[str, list[str]]:
    """Where they are from, and so many seeded pieces of text, each longer than a prompt."""
    folder = os.environ.get("EDGEAGENT_BENCH_DATA")
    path = Path(folder) / "wikitext2-test.txt" if folder else None
    if path is not None and path.is_file():
        label, text = path.name, path.read_text()
    else:
        own = [*sorted((harness.ROOT / "docs").glob("*.md")), harness.ROOT / "CONTRIBUTING.md"]
        label, text = "this project's own documentation", "\n".join(p.read_text() for p in own)
    draw = random.Random(seed)
    begins = [draw.randrange(len(text) - PIECE_BYTES) for _ in range(count)]
    return label, [text[begin : begin + PIECE_BYTES].partition(" ")[2] for begin in begins]


def settings_of(kv_type: str) -> ContextSettings:
    return ContextSettings(CONTEXT, kv_type, flash_attention=True, threads=1, chunk_tokens=CHUNK)


@contextmanager
def context(model: Model, kv_type: str, part: Part) -> Iterator[StageContext]:
    with closing(StageContext(model, settings_of(kv_type), part, CONTEXT)) as made:
        yield made


@contextmanager
def cut(source: Path, k: int, layers: int) -> Iterator[tuple[Model, Model]]:
    """Head and tail, from files that are gone afterwards; behind the head is a layer of `execution.llama.padding`."""
    with tempfile.TemporaryDirectory(prefix="edgeagent-bench-") as folder:
        head, tail = Path(folder) / "head.gguf", Path(folder) / "tail.gguf"
        asyncio.run(_cut(source, {head: (0, k), tail: (k, layers)}))
        padded = Model(str(head), extra_buffers=harness.repacks_weights(), padding=padding_of(head))
        stages = padded, Model(str(tail), extra_buffers=harness.repacks_weights())
        try:
            yield stages
        finally:
            for model in stages:
                model.close()


async def _cut(source: Path, wanted: dict[Path, tuple[int, int]]) -> None:
    worker = await Worker.spawn("llama")
    try:
        for target, (begin, end) in wanted.items():
            place = {"source": str(source), "target": str(target), "sha256": "0" * 64}
            await worker.call("slice", (), stall_s=600, begin=begin, end=end, **place)
    finally:
        await worker.close()


def prompt_of(model: Model, text: str) -> list[int]:
    return model.tokenize(text, add_special=True, parse_special=False)[:NUM_PROMPT]

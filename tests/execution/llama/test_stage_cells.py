"""Cells that are read out of a stage while it is evaluated: those alone, and nothing is changed by it."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeagent.core.cards import Architecture
from edgeagent.core.errors import RequestError
from edgeagent.execution.llama import candidates
from edgeagent.execution.llama.context import ContextSettings
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.stage_context import Part, StageContext
from edgeagent.execution.llama.stage_session import StageSession
from edgeagent.execution.llama.tensors import FloatArray
from tests.model.tiny_decoder import write

CHUNK, CONTEXT, LAYERS, AFTER = 16, 1024, 8, 5
TINY = Architecture(
    family="llama", layers=LAYERS, width=64, ffn=96, heads=2, kv_heads=1, head_dim=32, vocab=40, context_tokens=CONTEXT
)
ROW_BYTES = 34
"""32 values of q8_0 and their scale: K or V of a layer."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path: Path = tmp_path_factory.mktemp("cells") / "tiny.gguf"
    write(path, TINY)
    return Model(str(path), extra_buffers=False)


@contextmanager
def opened(model: Model, after: int | None = None) -> Iterator[StageSession]:
    settings = ContextSettings(CONTEXT, "q8_0", flash_attention=True, threads=1, chunk_tokens=CHUNK)
    part = Part(after=after)
    session = StageSession(StageContext(model, settings, part, CONTEXT), part, "f32", [])
    try:
        yield session
    finally:
        session.close()


def tokens(first: int, count: int) -> list[int]:
    return [(7 * i + 3) % 40 for i in range(first, first + count)]


@pytest.mark.parametrize("after", [None, AFTER])
def test_chunks_read_one_by_one_are_the_cells_read_together(model: Model, after: int | None) -> None:
    num_planes = 2 * (after or LAYERS)
    with opened(model, after) as session:
        blocks = []
        for first in range(0, 6 * CHUNK, CHUNK):
            session.evaluate(tokens(first, CHUNK), all_rows=False)
            blocks.append(session.cells(first, first + CHUNK))
        size = CHUNK * ROW_BYTES
        assert [len(block) for block in blocks] == [num_planes * size] * 6
        by_plane = [block[plane * size : (plane + 1) * size] for plane in range(num_planes) for block in blocks]
        assert session.cells(0, 6 * CHUNK) == b"".join(by_plane)
        session.truncate(4 * CHUNK)
        session.evaluate(tokens(4 * CHUNK, CHUNK), all_rows=False)
        assert session.cells(4 * CHUNK, 5 * CHUNK) == blocks[4]
        for first, end in ((0, 0), (-1, 4), (0, 5 * CHUNK + 1)):
            with pytest.raises(RequestError, match="are not in a stage"):
                session.cells(first, end)


def test_reading_cells_changes_no_bit_of_what_comes_behind_them(model: Model) -> None:
    def logits(*, reads: bool) -> Iterator[FloatArray]:
        with opened(model) as session:
            for first in range(0, 8 * CHUNK, CHUNK):
                session.evaluate(tokens(first, CHUNK), all_rows=False)
                if reads:
                    session.cells(first, first + CHUNK)
                yield candidates.logits(session.context).copy()

    for undisturbed, read in zip(logits(reads=False), logits(reads=True), strict=True):
        assert (undisturbed == read).all()


def test_a_chunk_costs_what_it_has_however_much_is_before_it(model: Model) -> None:
    with opened(model) as session:
        for first in range(0, CONTEXT, CHUNK):
            session.evaluate(tokens(first, CHUNK), all_rows=False)
        tracemalloc.start()
        try:
            block = session.cells(CONTEXT - CHUNK, CONTEXT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * len(block)  # all cells are 64 times as many

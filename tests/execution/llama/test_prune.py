"""Leaving out layers of a file: names, metadata, bytes, and that the result runs."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.llama.rewriting import Survivors
from edgeagent.execution.supervisor import Worker
from edgeagent.model.gguf_header import read_header
from edgeagent.model.store import StoredVariant
from tests.execution.llama.conftest import Job


def test_blocks_are_renumbered_and_other_tensors_keep_their_names() -> None:
    survivors = Survivors(4, [1])
    names = ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.3.ffn_up.weight"]
    assert [survivors.rename(name) for name in names] == [names[0], names[1], None, "blk.2.ffn_up.weight"]


@pytest.mark.parametrize("dropped", [[4], [-1], [0, 1, 2, 3]])
def test_impossible_layers_are_refused(dropped: list[int]) -> None:
    with pytest.raises(RequestError, match="cannot be left out of 4"):
        Survivors(4, dropped)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of three layers that differ in their heads."""
    path = tmp_path / "a.gguf"
    writer = GGUFWriter(path, "openelm")
    writer.add_block_count(3)
    writer.add_head_count([4, 8, 16])
    writer.add_custom_alignment(64)
    writer.add_array("openelm.rope.dimension_sections", [1, 2])
    for i in range(3):
        writer.add_tensor(f"blk.{i}.attn_q.weight", np.full((2, 32), i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_folder_that_is_not_there_is_an_error_not_a_death(job: Job, source: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        job("prune", source=str(source), target=str(tmp_path / "no" / "b.gguf"), dropped=[1])


def test_values_for_each_layer_follow_their_layers(job: Job, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.gguf"
    assert job("prune", source=str(source), target=str(target), dropped=[1])["layers"] == 2
    made = GGUFReader(target)
    assert made.alignment == 64
    assert made.fields["openelm.block_count"].contents() == 2
    assert made.fields["openelm.attention.head_count"].contents() == [4, 16]
    assert made.fields["openelm.rope.dimension_sections"].contents() == [1, 2]
    assert [float(t.data.max()) for t in made.tensors] == [0, 2]


@pytest.mark.long
def test_embedded_model_keeps_every_other_byte_and_runs(
    job: Job, smollm2: StoredVariant, prose: bytes, tmp_path: Path
) -> None:
    target, dropped = tmp_path / "pruned.gguf", [13, 14]
    job("prune", source=str(smollm2.path), target=str(target), dropped=dropped)
    before, after = GGUFReader(smollm2.path), GGUFReader(target)
    survivors = Survivors(30, dropped)
    renamed = {new: t for t in before.tensors if (new := survivors.rename(t.name))}
    assert [t.name for t in after.tensors] == list(renamed)
    assert all(t.tensor_type == renamed[t.name].tensor_type for t in after.tensors)
    assert all(np.array_equal(t.data, renamed[t.name].data) for t in after.tensors)
    keys = {k for k in before.fields if not k.startswith("GGUF.")}
    assert {k for k in after.fields if not k.startswith("GGUF.")} == keys
    assert {k for k in keys if before.fields[k].contents() != after.fields[k].contents()} == {"llama.block_count"}
    with target.open("rb") as file:
        assert read_header(file, "pruned").layers == 28
    facts = job(
        "perplexity",
        prose,
        path=str(target),
        reference=str(smollm2.path),
        chunks=2,
        context_tokens=64,
        threads=1,
        extra_buffers=False,
        flash_attention=True,
    )
    assert 0 < facts["mean_kl"] < 3  # worse, but not noise: log2 of the vocabulary is 15.6 bits, 10.8 nats
    assert 0 < facts["top1"] < 1
    assert asyncio.run(_answer(target)) == 4


async def _answer(path: Path) -> int:
    """Tokens of an answer of at most four."""
    worker = await Worker.spawn("llama")
    try:
        load: dict[str, Any] = {"context_tokens": 256, "threads": 1, "chunk_tokens": 64, "kv_type": "q8_0"}
        loaded, _ = await worker.call("load", path=str(path), extra_buffers=False, flash_attention=True, **load)
        assert loaded["layers"] == 28
        turns = [{"role": "user", "content": "What is the capital of France?"}]
        prompt, _ = await worker.call("encode", messages=turns)
        job: dict[str, Any] = {"prompt": prompt["tokens"], "output": [], "max_tokens": 4}
        messages = [
            message async for message, _ in worker.stream("generate", sampling={"temperature": 0.0, "seed": 1}, **job)
        ]
        return sum("token" in message for message in messages)
    finally:
        await worker.close()

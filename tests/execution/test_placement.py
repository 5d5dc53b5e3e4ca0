"""Where a worker puts weights: read instead of mapped, and experts kept from a GPU."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.recovery import LoadMode
from edgeagent.model.store import StoredVariant


def settings(stored: StoredVariant, load_mode: LoadMode = "map", *, experts_on_cpu: bool = False) -> LoadSettings:
    return LoadSettings(
        path=str(stored.path),
        variant_sha256=stored.sha256,
        context_tokens=512,
        kv_type="q8_0",
        flash_attention=True,
        threads=1,
        extra_buffers=False,
        chunk_tokens=64,
        load_mode=load_mode,
        experts_on_cpu=experts_on_cpu,
    )


async def answer(wanted: LoadSettings) -> tuple[list[int], str, str]:
    """The tokens of a greedy answer, the engine's key, and the worker's memory map."""
    model = LocalModel(wanted)
    try:
        prompt = await model.encode([{"role": "user", "content": "Name a colour."}])
        generation = Generation("one", wanted.variant_sha256, tuple(prompt), Sampling(), 8)
        steps = [step async for step in model.generate(generation) if isinstance(step, TokenStep)]
        return [step.token for step in steps], (await model.facts()).exact_key, memory_map(model.pid)
    finally:
        await model.close()


def memory_map(pid: int | None) -> str:
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize(("load_mode", "is_mapped"), [("map", True), ("read", False)])
def test_weights_are_where_they_are_wanted_and_the_answer_is_the_same(
    smollm2: StoredVariant, load_mode: LoadMode, is_mapped: bool
) -> None:
    tokens, key, maps = asyncio.run(answer(settings(smollm2, load_mode)))
    assert (smollm2.path.name in maps) == is_mapped
    plain, plain_key, _ = asyncio.run(answer(settings(smollm2)))
    assert (tokens, key) == (plain, plain_key)


def test_keeping_experts_on_the_cpu_changes_nothing_without_a_gpu(smollm2: StoredVariant) -> None:
    tokens, key, _ = asyncio.run(answer(settings(smollm2, experts_on_cpu=True)))
    plain, plain_key, _ = asyncio.run(answer(settings(smollm2)))
    assert (tokens, key) == (plain, plain_key)

"""Cache types end to end: several answers as each alone, and the second turn after a restart as from an empty cache."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.generation import Generation
from edgeagent.core.invariance import Invariance
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.store import StoredVariant
from tests.execution.test_batching import (
    alone,
    generations_for,
    reused,
    second_turn,
    settings_for,
    tokens_of,
    with_model,
)

CASES = [("f16", True), ("f16", False), ("q8_0", True), ("q4_0", True)]
IDS = [f"{kind}{'' if flash else ' without flash attention'}" for kind, flash in CASES]


def settings_of(variant: StoredVariant, kv_type: str, flash_attention: bool) -> LoadSettings:
    """With canonical shapes: what is right wherever nothing was probed."""
    return replace(settings_for(variant, Invariance()), kv_type=kv_type, flash_attention=flash_attention, threads=1)


# A q8_0 cache with canonical shapes is tried in test_batching too.
TOGETHER = [pytest.param(*case, marks=pytest.mark.long) if case == ("q8_0", True) else case for case in CASES]


@pytest.mark.parametrize(("kv_type", "flash_attention"), TOGETHER, ids=IDS)
def test_answers_together_are_those_of_each_alone(smollm2: StoredVariant, kv_type: str, flash_attention: bool) -> None:
    async def use(model: LocalModel) -> None:
        generations = await generations_for(model, 3, max_tokens=12)
        together = await asyncio.gather(*(tokens_of(model, g) for g in generations))
        assert together == await alone(model.settings, generations)

    with_model(settings_of(smollm2, kv_type, flash_attention), use)


@pytest.mark.parametrize(("kv_type", "flash_attention"), CASES, ids=IDS)
def test_second_turn_after_a_restart_reuses_what_can_be_kept_and_answers_the_same(
    smollm2: StoredVariant, tmp_path: Path, kv_type: str, flash_attention: bool
) -> None:
    settings = settings_of(smollm2, kv_type, flash_attention)
    kept: dict[str, Generation] = {}
    said: dict[str, list[int]] = {}

    async def first_turn(model: LocalModel) -> None:
        kept["first"] = replace((await generations_for(model, 3))[2], max_tokens=24)
        said["first"] = await tokens_of(model, kept["first"])

    async def after_restart(model: LocalModel) -> None:
        first = kept["first"]
        generation = await second_turn(model, first, said["first"][:-1], "And what else?")
        num_whole = len(first.prompt) // settings.chunk_tokens * settings.chunk_tokens
        assert await reused(model, generation) == (num_whole if flash_attention else 0)
        assert [await tokens_of(model, generation)] == await alone(settings, [generation])

    with_model(settings, first_turn, tmp_path)
    with_model(settings, after_restart, tmp_path)
    assert bool(list(tmp_path.glob("*.kv"))) == flash_attention  # without it, values lie transposed: nothing is kept

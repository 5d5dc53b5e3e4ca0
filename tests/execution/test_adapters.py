"""LoRA adapters in one engine with answers that have none: each is as alone, killed or restarted."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.errors import ModelFileError
from edgeagent.core.generation import Adapter, Generation
from edgeagent.core.invariance import Invariance
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.store import StoredVariant
from tests.execution import adapters
from tests.execution import test_batching as batching
from tests.execution.test_batching import FREE, alone, generations_for, reused, tokens_of, with_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return adapters.write(folder / "one.gguf", seed=1), adapters.write(folder / "two.gguf", seed=2)


def settings_for(variant: StoredVariant, invariance: Invariance, sequences: int = 4) -> LoadSettings:
    return replace(batching.settings_for(variant, invariance, sequences), threads=1)


async def mixed(model: LocalModel, pair: Sequence[Adapter], max_tokens: int = 24) -> list[Generation]:
    """The same questions without an adapter and with each; some drawn, some greedy."""
    plain = await generations_for(model, 2, max_tokens)
    return [replace(g, id=f"{g.id}{i}", adapter=a) for g in plain for i, a in enumerate((None, *pair))]


@pytest.mark.parametrize(
    "invariance", [FREE, pytest.param(Invariance(), marks=pytest.mark.long)], ids=["free", "canonical"]
)
def test_answers_with_and_without_adapters_together_are_those_of_each_alone(
    smollm2: StoredVariant, pair: tuple[Adapter, Adapter], invariance: Invariance
) -> None:
    async def use(model: LocalModel) -> None:
        generations = await mixed(model, pair)
        together = await asyncio.gather(*(tokens_of(model, g) for g in generations))
        assert together == await alone(model.settings, generations)
        assert len({tuple(answer) for answer in together}) == len(together)

    with_model(settings_for(smollm2, invariance), use)


@pytest.mark.parametrize("invariance", [FREE, Invariance()], ids=["free", "canonical"])
def test_answer_without_adapter_is_the_same_before_and_after_one(
    smollm2: StoredVariant, pair: tuple[Adapter, Adapter], invariance: Invariance
) -> None:
    async def use(model: LocalModel) -> None:
        (plain,) = await generations_for(model, 1)
        adapted = replace(plain, adapter=pair[0])
        before, other, after = [await tokens_of(model, g) for g in (plain, adapted, plain)]
        assert before == after
        assert before != other
        assert [before, other] == await alone(replace(model.settings, threads=2), [plain, adapted])

    with_model(settings_for(smollm2, invariance, sequences=1), use)


def test_cells_of_one_adapter_are_never_used_with_another(
    smollm2: StoredVariant, pair: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    settings = settings_for(smollm2, FREE)
    asked: dict[str, Generation] = {}

    async def first(model: LocalModel) -> None:
        asked["one"] = replace((await generations_for(model, 3))[2], adapter=pair[0])
        await tokens_of(model, asked["one"])
        for adapter in (None, pair[1]):
            assert await reused(model, replace(asked["one"], adapter=adapter)) == 0
        assert await reused(model, asked["one"]) > 100

    async def after_restart(model: LocalModel) -> None:
        assert await reused(model, replace(asked["one"], adapter=replace(pair[0], sha256="0" * 64))) == 0
        assert await reused(model, asked["one"]) > 100
        assert [await tokens_of(model, asked["one"])] == await alone(settings, [asked["one"]])

    with_model(settings, first, tmp_path)
    with_model(settings, after_restart, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_worker_killed_under_answers_with_adapters_changes_none_of_them(
    smollm2: StoredVariant, pair: tuple[Adapter, Adapter], number: signal.Signals
) -> None:
    async def use(model: LocalModel) -> None:
        generations = await mixed(model, pair, max_tokens=40)
        running = [asyncio.create_task(tokens_of(model, g, tries=4)) for g in generations]
        for _ in range(2):
            await asyncio.sleep(1.5)
            if model.pid and not all(task.done() for task in running):
                os.kill(model.pid, number)
        assert await asyncio.gather(*running) == await alone(model.settings, generations)

    with_model(settings_for(smollm2, FREE), use)


def test_more_adapters_than_stay_in_memory_take_turns(smollm2: StoredVariant, tmp_path: Path) -> None:
    many = [adapters.write(tmp_path / f"a{i}.gguf", seed=i) for i in range(6)]

    async def use(model: LocalModel) -> None:
        (plain,) = await generations_for(model, 1, max_tokens=6)
        asked = [replace(plain, adapter=adapter) for adapter in many]
        first = [await tokens_of(model, g) for g in asked]
        assert [await tokens_of(model, g) for g in asked] == first
        assert len({tuple(answer) for answer in first}) > 1

    with_model(settings_for(smollm2, FREE, sequences=2), use)


def test_bad_adapter_is_an_error_that_says_why_and_the_worker_lives(smollm2: StoredVariant, tmp_path: Path) -> None:
    whole = Path(adapters.write(tmp_path / "whole.gguf").path).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.gguf").write_bytes(b"\0" * 4096)
    bad = {
        "cut": "llama.cpp refuses",
        "noise": "llama.cpp refuses",
        "absent": "is not there",
        "shape": "incorrect shape",
        "layers": "does not exist in base model",
        "family": "arch mismatch",
        "suffix": "unexpected suffix",
    }
    adapters.write(tmp_path / "shape.gguf", keys=64)
    adapters.write(tmp_path / "layers.gguf", layers=31)
    adapters.write(tmp_path / "family.gguf", family="qwen2")
    adapters.write(tmp_path / "suffix.gguf", more=[("blk.0.attn_q.weight.other", (4, 4))])

    async def use(model: LocalModel) -> None:
        (plain,) = await generations_for(model, 1, max_tokens=6)
        before, pid = await tokens_of(model, plain), model.pid
        for name, reason in bad.items():
            adapter = Adapter(name, name * 8, str(tmp_path / f"{name}.gguf"))
            with pytest.raises(ModelFileError, match=reason):
                await tokens_of(model, replace(plain, adapter=adapter))
        assert await tokens_of(model, plain) == before
        assert model.pid == pid

    with_model(settings_for(smollm2, FREE), use)

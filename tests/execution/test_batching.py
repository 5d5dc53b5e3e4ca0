"""Several answers in one engine: the same words as alone, whoever is beside them, cancelled, or killed."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgeagent.core.errors import RequestError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.invariance import Invariance
from edgeagent.execution.admission import Claim, Priority, Urgency
from edgeagent.execution.executors import LocalExecutor, Traffic
from edgeagent.execution.handover import complete
from edgeagent.execution.kvstore.store import KvLimits, KvStore
from edgeagent.execution.local import Evaluated, LoadSettings, LocalModel
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS

FREE = Invariance(decode_batch=4, draft_batch=64, free_prefill=True)
"""What the probe finds of this variant with a q8_0 cache and flash attention."""
TOPICS = ["a lighthouse", "the sea in winter", "how bread is baked", "an old bridge", "bees", "a train at night"]


def settings_for(variant: StoredVariant, invariance: Invariance, sequences: int = 4) -> LoadSettings:
    return LoadSettings(
        str(variant.path), variant.sha256, 1024, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64, sequences=sequences, invariance=invariance,
    )  # fmt: skip


def with_model(
    settings: LoadSettings, use: Callable[[LocalModel], Awaitable[None]], folder: Path | None = None
) -> None:
    async def body() -> None:
        store = KvStore(folder, KvLimits(ram_bytes=256 * 2**20, disk_bytes=2**30), time.time)
        model = LocalModel(settings, store=store)
        try:
            await use(model)
        finally:
            await model.close()
            store.close()

    asyncio.run(body())


async def generations_for(model: LocalModel, num: int, max_tokens: int = 24) -> list[Generation]:
    made = []
    for i in range(num):
        text = f"Tell me something about {TOPICS[i % len(TOPICS)]}. " * (1 + 7 * (i % 3))
        prompt = await model.encode([{"role": "user", "content": text}])
        sampling = Sampling(temperature=0.8 * (i % 2), seed=i)
        made.append(Generation(f"g{i}", model.settings.variant_sha256, prompt, sampling, max_tokens))
    return made


async def tokens_of(model: LocalModel, generation: Generation, tries: int = 1) -> list[int]:
    executors = [LocalExecutor(model, Traffic())] * tries
    async with model.lease(), contextlib.aclosing(complete(generation, executors)) as steps:
        return [step.token async for step in steps if isinstance(step, TokenStep)]


async def alone(settings: LoadSettings, generations: Sequence[Generation]) -> list[list[int]]:
    """What an engine of one sequence, without any store, answers to each from an empty cache."""
    found = []
    for generation in generations:
        model = LocalModel(replace(settings, sequences=1, invariance=Invariance()))
        try:
            found.append(await tokens_of(model, generation))
        finally:
            await model.close()
    return found


@pytest.mark.parametrize("invariance", [FREE, Invariance()], ids=["free", "canonical"])
def test_answers_together_are_those_of_each_alone(smollm2: StoredVariant, invariance: Invariance) -> None:
    async def use(model: LocalModel) -> None:
        generations = await generations_for(model, 6)
        together = await asyncio.gather(*(tokens_of(model, g) for g in generations))
        assert together == await alone(model.settings, generations)

    with_model(replace(settings_for(smollm2, invariance), threads=2), use)


@pytest.mark.parametrize(
    ("invariance", "number"),
    [
        pytest.param(FREE, signal.SIGKILL, id="free-SIGKILL"),
        pytest.param(Invariance(), signal.SIGSEGV, id="canonical-SIGSEGV"),
        pytest.param(FREE, signal.SIGSEGV, id="free-SIGSEGV", marks=pytest.mark.long),
        pytest.param(Invariance(), signal.SIGKILL, id="canonical-SIGKILL", marks=pytest.mark.long),
    ],
)
def test_worker_killed_under_several_answers_changes_none_of_them(
    smollm2: StoredVariant, invariance: Invariance, number: signal.Signals
) -> None:
    draw = random.Random(number)

    async def killing(model: LocalModel, stop: asyncio.Event) -> None:
        for _ in range(2):
            await asyncio.sleep(draw.uniform(1.5, 2.5))
            if model.pid and not stop.is_set():
                os.kill(model.pid, number)

    async def use(model: LocalModel) -> None:
        generations = await generations_for(model, 4, max_tokens=100)
        stop = asyncio.Event()
        killer = asyncio.create_task(killing(model, stop))
        together = await asyncio.gather(*(tokens_of(model, g, tries=4) for g in generations))
        stop.set()
        await killer
        assert together == await alone(model.settings, generations)

    with_model(settings_for(smollm2, invariance), use)


async def reused(model: LocalModel, generation: Generation) -> int:
    """Tokens of its prompt that were not evaluated."""
    async with contextlib.aclosing(model.generate(generation)) as events:
        async for event in events:
            if isinstance(event, Evaluated) and event.reused is not None:
                return event.reused
    return 0


async def second_turn(model: LocalModel, first: Generation, output: Sequence[int], text: str) -> Generation:
    more = await model.encode([{"role": "user", "content": text}])
    return Generation("second", first.variant_sha256, (*first.prompt, *output, *more), Sampling(), 8)


def test_second_turn_after_a_restart_evaluates_only_what_is_new(smollm2: StoredVariant, tmp_path: Path) -> None:
    settings = settings_for(smollm2, FREE)
    kept: dict[str, Generation] = {}
    said: dict[str, list[int]] = {}

    async def first_turn(model: LocalModel) -> None:
        kept["first"] = replace((await generations_for(model, 3))[2], max_tokens=60)
        said["first"] = await tokens_of(model, kept["first"])

    async def after_restart(model: LocalModel) -> None:
        output = said["first"][:-1]  # the last token was drawn, not evaluated
        generation = await second_turn(model, kept["first"], output, "And what else?")
        assert await reused(model, generation) == len(kept["first"].prompt) + len(output)
        answer = await tokens_of(model, generation)
        assert [answer] == await alone(settings, [generation])

    with_model(settings, first_turn, tmp_path)
    with_model(settings, after_restart, tmp_path)


def test_conversation_that_lost_its_slot_to_others_comes_back_whole(smollm2: StoredVariant) -> None:
    async def use(model: LocalModel) -> None:
        generations = await generations_for(model, 6)
        said = [await tokens_of(model, generation) for generation in generations]
        await asyncio.sleep(0.5)
        for generation in generations[1:]:
            await tokens_of(model, generation)
        again = await second_turn(model, generations[0], said[0][:-1], "Go on.")
        assert await reused(model, again) >= len(generations[0].prompt)

    with_model(settings_for(smollm2, FREE, sequences=2), use)


def test_another_conversation_with_the_same_beginning_leaves_the_first_alone(smollm2: StoredVariant) -> None:
    async def use(model: LocalModel) -> None:
        (first,) = await generations_for(model, 1)
        shared = await model.encode([{"role": "user", "content": "The rules of this house are these. " * 20}])
        one = replace(first, prompt=shared + first.prompt)
        other = replace(first, prompt=(*shared, *(await generations_for(model, 2))[1].prompt))
        said = await tokens_of(model, one)
        assert await reused(model, other) >= len(shared)
        again = await second_turn(model, one, said[:-1], "Go on.")
        assert await reused(model, again) >= len(one.prompt)

    with_model(settings_for(smollm2, FREE), use)


@pytest.mark.parametrize("invariance", [FREE, Invariance()], ids=["free", "canonical"])
def test_urgent_prompt_is_read_before_an_earlier_long_one_of_low_priority(
    smollm2: StoredVariant, invariance: Invariance
) -> None:
    async def first_token(model: LocalModel, generation: Generation, claim: Claim, begun: asyncio.Event) -> None:
        async with model.lease(claim) as urgency, contextlib.aclosing(model.generate(generation, urgency)) as events:
            async for event in events:
                begun.set()
                if isinstance(event, TokenStep):
                    return

    async def use(model: LocalModel) -> None:
        one, other = await generations_for(model, 2, max_tokens=2)
        long = replace(one, id="long", prompt=(one.prompt * 64)[:960])
        short = replace(other, id="short", prompt=other.prompt[:200])
        order: list[str] = []
        begun = asyncio.Event()

        async def noted(generation: Generation, claim: Claim, starts: asyncio.Event) -> None:
            await first_token(model, generation, claim, starts)
            order.append(generation.id)

        async with asyncio.TaskGroup() as group:
            group.create_task(noted(long, Claim("ada", Priority.LOW), begun))
            await begun.wait()
            group.create_task(noted(short, Claim("bob", Priority.HIGH), asyncio.Event()))
        assert order == ["short", "long"]

    with_model(settings_for(smollm2, invariance, sequences=2), use)


def test_urgency_that_is_none_is_refused_and_the_worker_lives(smollm2: StoredVariant) -> None:
    async def use(model: LocalModel) -> None:
        (generation,) = await generations_for(model, 1, max_tokens=2)
        pid = model.pid
        for wrong in (Urgency(3), Urgency(-1), Urgency(1, float("nan"))):
            with pytest.raises(RequestError, match=r"priority|due_s"):
                async for _ in model.generate(generation, wrong):
                    pass
        assert await tokens_of(model, generation)
        assert model.pid == pid

    with_model(settings_for(smollm2, FREE, sequences=1), use)


def test_cancelled_answer_gives_its_sequence_back(smollm2: StoredVariant) -> None:
    async def use(model: LocalModel) -> None:
        generations = await generations_for(model, 3, max_tokens=200)
        for _ in range(3):
            async with contextlib.aclosing(model.generate(generations[0])) as events:
                async for event in events:
                    if isinstance(event, TokenStep):
                        break
        short = replace(generations[1], max_tokens=5)
        assert len(await tokens_of(model, short)) <= 5

    with_model(settings_for(smollm2, FREE, sequences=1), use)

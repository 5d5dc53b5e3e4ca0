"""A model in two workers: the same words as in one, whoever draws them, and what is refused or lost on the way."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError, EngineLostError, ModelFileError, PeerError, RequestError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.core.stages import Cut
from edgeagent.execution import canonical
from edgeagent.execution.executors import LocalExecutor, Traffic
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.execution.stage_sessions import (
    CellRows,
    Draw,
    HiddenRows,
    Ran,
    SessionSpec,
    StageEvent,
    batches,
    open_head,
    open_session,
)
from edgeagent.execution.stages import StageModel, describe_head
from edgeagent.execution.supervisor import Worker
from edgeagent.model.slicing import padding_of
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS
from tests.other_engines import other_build

LAYERS, K, L, CHUNK = 30, 8, 19, 64
MAX_TOKENS = 6
TEXT = "Write about a keeper of a lighthouse who finds a letter in a bottle on the beach, and what it says. " * 3


@dataclass(frozen=True, slots=True)
class Split:
    """The whole model, and its stages."""

    whole: LocalModel
    head: StageModel
    tail: StageModel
    output: StageModel
    middle: StageModel
    rest: StageModel
    """Layers from K to L, and from there on."""

    async def generation(self, sampling: Sampling) -> Generation:
        prompt = await self.whole.encode([{"role": "user", "content": TEXT}])
        return Generation("test", self.whole.settings.variant_sha256, prompt, sampling, MAX_TOKENS)

    async def expected(self, generation: Generation) -> list[int]:
        async with contextlib.aclosing(LocalExecutor(self.whole, Traffic()).extend(generation)) as steps:
            return [step.token async for step in steps]


@pytest.fixture(scope="module")
def files(smollm2: StoredVariant, tmp_path_factory: pytest.TempPathFactory) -> dict[Cut, Path]:
    folder = tmp_path_factory.mktemp("stages")
    ranges = ((0, K), (K, LAYERS), (LAYERS, LAYERS), (K, L), (L, LAYERS))
    cuts = [Cut.of(*each, LAYERS) for each in ranges]

    async def make() -> dict[Cut, Path]:
        worker, made = await Worker.spawn("llama"), {}
        try:
            for cut in cuts:
                made[cut] = folder / f"{cut.begin}to{cut.end}.gguf"
                place = {"source": str(smollm2.path), "target": str(made[cut]), "sha256": smollm2.sha256}
                await worker.call("slice", (), stall_s=60, begin=cut.begin, end=cut.end, **place)
        finally:
            await worker.close()
        return made

    return asyncio.run(make())


Use = Callable[[Split], Awaitable[None]]


@pytest.fixture
def split(smollm2: StoredVariant, files: dict[Cut, Path]) -> Callable[[Use], None]:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, 1024, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=CHUNK,
    )  # fmt: skip

    async def body(use: Use) -> None:
        whole = LocalModel(settings)
        stages = [
            StageModel(replace(settings, path=str(p)), cut, smollm2.sha256, padding_of(p) if cut.ends_inside else None)
            for cut, p in files.items()
        ]
        try:
            await use(Split(whole, *stages))
        finally:
            await whole.close()
            for stage in stages:
                await stage.close()

    return lambda use: asyncio.run(body(use))


async def all_of(events: AsyncGenerator[StageEvent, None]) -> list[StageEvent]:
    async with contextlib.aclosing(events) as found:
        return [event async for event in found]


async def rows_of(events: AsyncGenerator[StageEvent, None]) -> bytes:
    return b"".join(event.data for event in await all_of(events) if isinstance(event, HiddenRows))


async def drawn(events: AsyncGenerator[StageEvent, None]) -> list[int]:
    return [event.token for event in await all_of(events) if isinstance(event, TokenStep)]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_tail_draws_the_words_of_the_whole_model(split: Callable[[Use], None], temperature: float) -> None:
    async def use(models: Split) -> None:
        sampling = Sampling(temperature=temperature, seed=5)
        generation = await models.generation(sampling)
        prompt, said = generation.prompt, list[int]()
        spans = canonical.spans(len(prompt), 0, CHUNK)
        async with models.head.session(512) as head, models.tail.session(512, sampling=sampling) as tail:
            rows = await rows_of(head.run_tokens(prompt, 0, spans))
            said += await drawn(tail.run_hidden(rows, 0, spans, draw=Draw(MAX_TOKENS)))
            while len(said) < MAX_TOKENS:
                position = len(prompt) + len(said) - 1
                rows = await rows_of(head.run_tokens(said[-1:], position, [1]))
                said += await drawn(tail.run_hidden(rows, position, [1], draw=Draw(MAX_TOKENS)))
        assert said == await models.expected(generation)

    split(use)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_words_of_three_stages_are_those_of_the_whole_model(split: Callable[[Use], None], temperature: float) -> None:
    async def use(models: Split) -> None:
        sampling = Sampling(temperature=temperature, seed=5)
        generation = await models.generation(sampling)
        prompt, said = generation.prompt, list[int]()
        spans, position, new = canonical.spans(len(prompt), 0, CHUNK), 0, list(prompt)
        async with (
            models.head.session(512) as head,
            models.middle.session(512) as middle,
            models.rest.session(512, sampling=sampling) as rest,
        ):
            while len(said) < MAX_TOKENS:
                rows = await rows_of(head.run_tokens(new, position, spans))
                rows = await rows_of(middle.run_hidden(rows, position, spans, all_rows=True))
                said += await drawn(rest.run_hidden(rows, position, spans, draw=Draw(MAX_TOKENS)))
                position, new, spans = position + len(new), said[-1:], [1]
        assert said == await models.expected(generation)

    split(use)


def test_device_with_the_output_head_draws_what_the_peer_never_sees(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        sampling = Sampling(temperature=0.9, seed=5)
        generation = await models.generation(sampling)
        prompt, said = generation.prompt, list[int]()
        spans, position, new = canonical.spans(len(prompt), 0, CHUNK), 0, list(prompt)
        async with (
            models.head.session(512) as head,
            models.tail.session(512, gives_hidden=True) as tail,
            models.output.session(1, sampling=sampling, prompt=prompt) as output,
        ):
            while len(said) < MAX_TOKENS:
                rows = await rows_of(head.run_tokens(new, position, spans))
                final = await last_row(tail.run_hidden(rows, position, spans))
                said += await drawn(output.run_hidden(final, 0, [1], draw=Draw(MAX_TOKENS)))
                position, new, spans = position + len(new), said[-1:], [1]
        assert said == await models.expected(generation)

    split(use)


async def last_row(events: AsyncGenerator[StageEvent, None]) -> bytes:
    rows = [event for event in await all_of(events) if isinstance(event, HiddenRows)]
    assert all(event.num_tokens == 1 for event in rows)
    return rows[-1].data


def test_guesses_are_checked_together_and_what_was_wrong_is_forgotten(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        sampling = Sampling()
        generation = await models.generation(sampling)
        words, prompt = await models.expected(generation), generation.prompt
        spans = canonical.spans(len(prompt), 0, CHUNK)
        wrong = (words[2] + 1) % 1000
        async with models.head.session(512) as head, models.tail.session(512, sampling=sampling) as tail:
            rows = await rows_of(head.run_tokens(prompt, 0, spans))
            said = await drawn(tail.run_hidden(rows, 0, spans, draw=Draw(MAX_TOKENS)))
            for guesses in ((words[1], wrong), (words[3],)):
                position = len(prompt) + len(said) - 1
                rows = await rows_of(head.run_tokens([said[-1], *guesses], position, [1 + len(guesses)]))
                run = tail.run_hidden(rows, position, [1 + len(guesses)], draw=Draw(MAX_TOKENS, guesses))
                said += await drawn(run)
        assert said == words[:5]  # one of the prompt, two with the guess that was right, two with the other

    split(use)


@pytest.mark.parametrize(("batch_rows", "evaluated"), [(1, 4), (2, 4), (3, 6)])
def test_guesses_in_several_batches_are_checked_no_further_than_the_first_wrong_one(
    split: Callable[[Use], None], batch_rows: int, evaluated: int
) -> None:
    async def use(models: Split) -> None:
        sampling = Sampling()
        generation = await models.generation(sampling)
        words, prompt = await models.expected(generation), generation.prompt
        spans = canonical.spans(len(prompt), 0, CHUNK)
        guesses = (*words[1:4], (words[4] + 1) % 1000, *words[:3])
        async with models.head.session(512) as head, models.tail.session(512, sampling=sampling) as tail:
            rows = await rows_of(head.run_tokens(prompt, 0, spans))
            [first] = await drawn(tail.run_hidden(rows, 0, spans, draw=Draw(MAX_TOKENS)))
            rows = await head.hidden_states([first, *guesses], len(prompt), batch_rows)
            spans = batches(1 + len(guesses), batch_rows)
            events = await all_of(tail.run_hidden(rows, len(prompt), spans, draw=Draw(MAX_TOKENS, guesses)))
        assert [event.token for event in events if isinstance(event, TokenStep)] == words[1:5]
        assert events[-1] == Ran(len(prompt) + evaluated, drawn=4)

    split(use)


def test_peers_cells_behind_own_ones_complete_a_cache(split: Callable[[Use], None]) -> None:
    """The plan `split-prefill`: what the device evaluates then is nothing but the tokens it draws."""

    async def use(models: Split) -> None:
        generation = await models.generation(Sampling())
        prompt, expected = generation.prompt, await models.expected(generation)
        spans = canonical.spans(len(prompt), 0, CHUNK)
        await models.whole.close()  # and with it the cells of `expected`
        async with open_head(models.whole, K, 512, "f32") as head, models.tail.session(512) as tail:
            rows = await rows_of(head.run_tokens(prompt, 0, spans))
            events = await all_of(tail.run_hidden(rows, 0, spans, cells=True))
            cells = [event for event in events if isinstance(event, CellRows)]
            assert [each.first for each in cells] == list(range(0, len(prompt), CHUNK))
            blocks = [each.data for each in cells]
            assert (await tail.cells(0, CHUNK)).data == blocks[0]
            with pytest.raises(EngineError, match=r"a block of \d+ cells has"):
                await head.splice(prompt, 0, [blocks[0][:-1], *blocks[1:]])
            with pytest.raises(RequestError, match="has not evaluated this prompt"):
                await head.splice([*prompt[1:], 1], 0, blocks)
            await head.splice(prompt, 0, blocks)
        assert await models.whole.num_warm(prompt) == len(prompt) - 1
        assert await models.expected(generation) == expected

    split(use)


def test_two_ends_agree_and_name_what_differs(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        head, tail = await models.head.descriptor("m", "f32"), await models.tail.descriptor("m", "f32")
        head.check_same(tail)
        (await describe_head(models.whole, "m", K, "f32")).check_same(tail)
        assert len(tail.kv_planes) == 2 * (LAYERS - K)
        head.check_same(await models.middle.descriptor("m", "f32"))
        (await models.middle.descriptor("m", "f32")).behind(L).check_same(await models.rest.descriptor("m", "f32"))
        other = StageModel(replace(models.tail.settings, kv_type="f16"), models.tail.cut, models.tail.source_sha256)
        try:
            with pytest.raises(PeerError, match="kv_type is 'q8_0' here and 'f16' there"):
                head.check_same(await other.descriptor("m", "f32"))
        finally:
            await other.close()

    split(use)


def test_two_builds_of_one_release_claim_no_identity(
    split: Callable[[Use], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(models: Split) -> None:
        here, key = await models.head.descriptor("m", "f32"), (await models.whole.facts()).exact_key
        monkeypatch.setenv("PYTHONPATH", f"{other_build(tmp_path)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        elsewhere = LocalModel(models.whole.settings)
        try:
            with pytest.raises(PeerError, match=r"engine is '([\d.]+)\+\w{12}' here and '\1\+\w{12}' there"):
                here.check_same(await describe_head(elsewhere, "m", K, "f32"))
            assert (await elsewhere.facts()).exact_key != key
            assert (await elsewhere.facts()).system == (await models.whole.facts()).system
        finally:
            await elsewhere.close()

    split(use)


def test_file_that_is_another_stage_is_not_loaded(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        for cut, sha256 in ((Cut.of(K + 1, LAYERS, LAYERS), models.tail.source_sha256), (models.tail.cut, "0" * 64)):
            wrong = StageModel(models.tail.settings, cut, sha256)
            with pytest.raises(ModelFileError, match="is another stage: "):
                await wrong.facts()
            assert not wrong.is_loaded

    split(use)


def test_wrong_input_costs_an_error_and_not_the_session(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        async with models.head.session(256) as head, models.tail.session(256, sampling=Sampling()) as tail:
            rows = await rows_of(head.run_tokens([1, 2, 3], 0, [3]))
            with pytest.raises(RequestError, match="token id 99999999 is not in the vocabulary"):
                await all_of(head.run_tokens([99999999], 3, [1]))
            for wrong in (rows[:-1], rows + b"x"):
                with pytest.raises(RequestError, match="hidden states in f32 have"):
                    await all_of(tail.run_hidden(wrong, 0, [3]))
            for spans in ([], [4], [0, 3], [-1, 4]):
                with pytest.raises(RequestError, match="are not evaluated in spans"):
                    await all_of(tail.run_hidden(rows, 0, spans))
            for position in (1, -1):
                with pytest.raises(RequestError, match="the stage has 0 tokens"):
                    await all_of(tail.run_hidden(rows, position, [3]))
            assert (await all_of(tail.run_hidden(rows, 0, [3])))[-1] == Ran(3)

    split(use)


def test_lost_worker_ends_its_sessions_and_the_next_one_loads_again(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        async with models.head.session(256) as head:
            rows = await rows_of(head.run_tokens([1, 2, 3], 0, [3]))
            await models.head.set_pace(2, 0.9)
            assert await rows_of(head.run_tokens([1, 2, 3], 0, [3])) == rows
            assert models.head.pid is not None
            os.kill(models.head.pid, signal.SIGKILL)
            with pytest.raises(EngineLostError):
                await all_of(head.run_tokens([4], 3, [1]))
        async with models.head.session(256) as head:
            assert await rows_of(head.run_tokens([1, 2, 3], 0, [3])) == rows

    split(use)


def test_head_runs_beside_an_answer_of_the_same_worker(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        generation = await models.generation(Sampling())
        alone = await models.expected(generation)
        spans = canonical.spans(len(generation.prompt), 0, CHUNK)
        async with open_head(models.whole, K, 512, "int8") as head:
            words, rows = await asyncio.gather(
                models.expected(generation), rows_of(head.run_tokens(generation.prompt, 0, spans))
            )
            again = await rows_of(head.run_tokens(generation.prompt, 0, spans))
        assert (words, rows) == (alone, again)

    split(use)


def test_run_that_is_left_keeps_what_was_evaluated(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        tokens = list(range(100, 100 + 4 * CHUNK))
        async with models.head.session(512) as head:
            whole = await rows_of(head.run_tokens(tokens, 0, [CHUNK] * 4))
            async with contextlib.aclosing(head.run_tokens(tokens, 0, [CHUNK] * 4)) as run:
                first = await anext(run)
            assert isinstance(first, HiddenRows)
            rest = await rows_of(head.run_tokens(tokens[CHUNK:], CHUNK, [CHUNK] * 3))
            assert first.data + rest == whole

    split(use)


def test_sessions_are_bounded(split: Callable[[Use], None]) -> None:
    async def use(models: Split) -> None:
        worker = await models.whole.worker()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(32):
                await stack.enter_async_context(open_session(worker, SessionSpec(1, after=1)))
            with pytest.raises(RequestError, match="cannot be opened beside 32"):
                await stack.enter_async_context(open_session(worker, SessionSpec(1, after=1)))

    split(use)

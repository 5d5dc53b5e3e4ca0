"""The real embedding model in a real worker process."""

import asyncio
import math
import os
import signal
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import EngineError, ModelFileError
from edgeagent.core.memory import Vector
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.onnx.engine import MAX_BATCH_TOKENS, batches
from edgeagent.execution.supervisor import Worker

DOG, PUPPY, TAX = "My dog is called Rex.", "The puppy's name is Rex.", "The tax return is due in April."


def run_with(
    encoder: Encoder,
    use: Callable[[OnnxEmbedder], Awaitable[None]],
    dimensions: int = 384,
    idle_unload_s: float = 300.0,
) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        embedder = OnnxEmbedder(locate, dimensions, idle_unload_s=idle_unload_s)
        try:
            await use(embedder)
        finally:
            await embedder.close()

    asyncio.run(body())


def dot(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(array("f", a), array("f", b), strict=True))


def test_embed_related_texts_are_nearer_than_unrelated(encoder: Encoder) -> None:
    async def use(embedder: OnnxEmbedder) -> None:
        dog, puppy, tax = await embedder.embed([DOG, PUPPY, TAX])
        assert dot(dog, puppy) > 0.6 > 0.3 > dot(dog, tax)
        assert all(math.isclose(dot(v, v), 1.0, abs_tol=1e-5) for v in (dog, puppy, tax))

    run_with(encoder, use)


def test_embed_many_texts_of_mixed_length_equal_each_alone(encoder: Encoder) -> None:
    texts = [DOG, "Rain. " * 120, TAX, "", *(f"Note number {i} about the garden." for i in range(40))]

    async def use(embedder: OnnxEmbedder) -> None:
        together = await embedder.embed(texts)
        assert len(together) == len(texts)
        for i in (0, 1, 2, 3, 43):
            [alone] = await embedder.embed([texts[i]])
            assert dot(alone, together[i]) > 0.9999

    run_with(encoder, use)


def test_embed_long_text_is_cut_at_256_tokens(encoder: Encoder) -> None:
    async def use(embedder: OnnxEmbedder) -> None:
        words = "rain " * 254  # and the two special tokens
        inside, beyond, shorter = await embedder.embed([words, words + "tax " * 50, "rain " * 200 + "tax " * 50])
        assert dot(inside, beyond) > 0.9999
        assert dot(inside, shorter) < 0.999

    run_with(encoder, use)


def test_embed_after_worker_was_killed_starts_another(encoder: Encoder) -> None:
    async def use(embedder: OnnxEmbedder) -> None:
        [before] = await embedder.embed([DOG])
        first = embedder.worker_pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)  # so that the call is under way when the process dies
        call = asyncio.create_task(embedder.embed([DOG]))
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        assert await call == [before]
        assert embedder.worker_pid not in (None, first)

    run_with(encoder, use)


def test_embedder_unused_has_no_worker_and_drops_it_when_idle(encoder: Encoder) -> None:
    async def use(embedder: OnnxEmbedder) -> None:
        assert embedder.worker_pid is None
        await embedder.embed([DOG])
        assert embedder.worker_pid is not None
        async with asyncio.timeout(30):
            while embedder.worker_pid is not None:  # noqa: ASYNC110  (nothing announces it)
                await asyncio.sleep(0.02)
        assert len(await embedder.embed([DOG])) == 1

    run_with(encoder, use, idle_unload_s=0.1)


def test_embed_cancelled_while_loading_leaves_a_usable_embedder(encoder: Encoder) -> None:
    async def use(embedder: OnnxEmbedder) -> None:
        call = asyncio.create_task(embedder.embed([DOG]))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(await embedder.embed([DOG])) == 1

    run_with(encoder, use)


@pytest.mark.parametrize("broken", ["model.onnx", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_embed_with_a_broken_file_is_a_model_file_error(
    encoder: Encoder, tmp_path: Path, broken: str, content: bytes | None
) -> None:
    (tmp_path / "model.onnx").symlink_to(encoder.model)
    (tmp_path / "tokenizer.json").symlink_to(encoder.tokenizer)
    (tmp_path / broken).unlink()
    if content is not None:
        (tmp_path / broken).write_bytes(content)

    async def use(embedder: OnnxEmbedder) -> None:
        with pytest.raises(ModelFileError, match=broken):
            await embedder.embed([DOG])
        assert embedder.worker_pid is None

    run_with(Encoder(tmp_path / "model.onnx", tmp_path / "tokenizer.json"), use)


def test_embed_with_wrong_dimensions_on_the_card_is_refused(encoder: Encoder) -> None:
    async def use(embedder: OnnxEmbedder) -> None:
        with pytest.raises(ModelFileError, match=r"384 values, its card says 768"):
            await embedder.embed([DOG])

    run_with(encoder, use, dimensions=768)


def test_engine_asked_too_early_or_for_an_unknown_operation_lives_on() -> None:
    async def body() -> None:
        worker = await Worker.spawn("onnx")
        try:
            with pytest.raises(EngineError, match="call load first"):
                await worker.call("embed", texts=[DOG])
            with pytest.raises(EngineError, match="no operation 'sing'"):
                await worker.call("sing")
            assert worker.is_alive
        finally:
            await worker.close()

    asyncio.run(body())


@given(st.lists(st.integers(1, 256), max_size=200))
def test_batches_cover_each_text_once_within_the_bound(lengths: list[int]) -> None:
    groups = list(batches(lengths))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(max(lengths[i] for i in group) * len(group) <= MAX_BATCH_TOKENS for group in groups)

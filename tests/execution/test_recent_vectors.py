"""Vectors that are kept, over the real embedding model in its worker."""

import asyncio

from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.recent_vectors import MAX_CHARS, MAX_VECTORS, RecentVectors

DOG, TAX = "My dog is called Rex.", "The tax return is due in April."


def test_recent_vectors_equal_computed_ones_and_need_no_worker(encoder: Encoder) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        embedder = OnnxEmbedder(locate, 384)
        try:
            recent = RecentVectors(embedder)
            [dog] = await recent.embed([DOG])
            tax, again, also = await recent.embed([TAX, DOG, DOG])
            assert again == also == dog != tax
            assert [dog, tax] == await embedder.embed([DOG, TAX])
            await embedder.close()
            assert await recent.embed([TAX, DOG]) == [tax, dog]
            assert embedder.worker_pid is None
        finally:
            await embedder.close()

    asyncio.run(body())


def test_recent_vectors_are_the_newest_short_texts(encoder: Encoder) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        embedder = OnnxEmbedder(locate, 384)
        try:
            recent, long = RecentVectors(embedder), "Rain. " * MAX_CHARS
            first = await recent.embed([DOG, long])
            others = [f"{number}" for number in range(MAX_VECTORS - 1)]
            await recent.embed(others)
            await recent.embed([DOG])
            await recent.embed([TAX])  # takes the place of the oldest, which is not the dog's
            await embedder.close()
            assert await recent.embed([DOG, TAX, *others[1:]])
            assert embedder.worker_pid is None
            assert [first[1]] == await recent.embed([long])
            assert embedder.worker_pid is not None
        finally:
            await embedder.close()

    asyncio.run(body())

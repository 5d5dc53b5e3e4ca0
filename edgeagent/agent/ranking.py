"""Which units of documents matter to a question: one pass of the sentence encoder, then recall's score."""

import asyncio
from collections.abc import Sequence

from edgeagent.agent.memory.scoring import Scorer, shipped
from edgeagent.agent.memory.words import stemmer
from edgeagent.agent.relevance import Unit, matter, relevance
from edgeagent.core.memory import Embedder, Vector
from edgeagent.model.reduction import similarity


async def ranked(question: str, units: Sequence[Unit], embedder: Embedder, scorer: Scorer | None = None) -> list[float]:
    """A score in 0..1 for each unit. Raises EngineError."""
    told = matter(question, units)
    asked, *vectors = await embedder.embed([told.question, *told.units])
    return await asyncio.to_thread(_weighed, question, units, asked, vectors, scorer or shipped())


def _weighed(
    question: str, units: Sequence[Unit], asked: Vector, vectors: Sequence[Vector], scorer: Scorer
) -> list[float]:
    cosines = [similarity(asked, vector) for vector in vectors]
    return relevance(question, units, cosines, stemmer(), scorer)

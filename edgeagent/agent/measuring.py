"""Measures stored texts once: tokens, and how surprising each word is to the local model. Reductions read that."""

import zlib
from collections.abc import Callable, Sequence
from typing import Protocol

from edgeagent.agent.memory.measures import Measure, Unmeasured
from edgeagent.agent.memory.memory import Memory
from edgeagent.model.surprisal import of_words

BATCH = 8
"""Texts in one call of the engine: some seconds on a slow machine, and what a disturbance loses."""


class Gauge(Protocol):
    """The part of a local model that measures; `execution.local.LocalModel` is one."""

    async def surprisals(self, texts: Sequence[str]) -> list[list[tuple[int, float | None]]]: ...


async def measure(
    memory: Memory, gauge: Gauge, model: str, limit: int, done: Callable[[int], None] = lambda _: None
) -> int:
    """Measure at most `limit` texts that were not yet, the newest first; how many were. Raises EngineError.

    Each batch is kept at once, so that one who is disturbed goes on where he was.
    """
    num_measured = 0
    while num_measured < limit and (texts := await memory.unmeasured(min(BATCH, limit - num_measured))):
        tokens = await gauge.surprisals([each.text for each in texts])
        found = [(one, _measure(one, told, model)) for one, told in zip(texts, tokens, strict=True)]
        await memory.keep_measures(found)
        num_measured += len(texts)
        done(num_measured)
    return num_measured


def _measure(one: Unmeasured, tokens: Sequence[tuple[int, float | None]], model: str) -> Measure:
    return Measure(tuple(of_words(one.text, tokens)), len(tokens), zlib.crc32(model.encode()))

"""Measures stored texts once: tokens, and how surprising each word is to the local model. Reductions read that."""

import zlib
from collections.abc import Awaitable, Callable, Sequence
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
    memory: Memory, gauge: Gauge, model: str, limit: int, may_go_on: Callable[[], Awaitable[bool]] | None = None
) -> int:
    """Measure at most `limit` texts that were not yet, those stored last first; how many were. Raises EngineError.

    Each batch is kept at once, so that one who is disturbed goes on where he was. `may_go_on` is asked before each.
    """
    found = await memory.unmeasured(limit)
    num_measured = 0
    while num_measured < len(found) and (may_go_on is None or await may_go_on()):
        batch = found[num_measured : num_measured + BATCH]
        tokens = await gauge.surprisals([each.text for each in batch])
        await memory.keep_measures([(one, _measure(one, told, model)) for one, told in zip(batch, tokens, strict=True)])
        num_measured += len(batch)
    return num_measured


def _measure(one: Unmeasured, tokens: Sequence[tuple[int, float | None]], model: str) -> Measure:
    return Measure(tuple(of_words(one.text, tokens)), len(tokens), zlib.crc32(model.encode()))

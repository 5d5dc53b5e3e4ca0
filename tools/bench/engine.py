"""What does the engine cost over bare llama.cpp calls, and what do its caches save? Ratios, paired in one run.

The yardstick (`raw_llama`) holds the same file with the same settings in a process of its own; each round measures
both, one after the other, in changing order. What goes over HTTP is asked of a daemon started for it.
"""

import asyncio
import dataclasses
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import engine_http
import harness
import streams
from raw_llama import RawProcess, RawSettings, raw_process

from edgeagent.daemon import open_house
from edgeagent.execution.llama import __name__ as _engine  # noqa: F401  (the engine itself runs in workers)
from edgeagent.execution.local import LocalModel
from edgeagent.settings import load_settings

ROUNDS, QUICK_ROUNDS = 12, 4
BESIDE_ROUNDS, QUICK_BESIDE_ROUNDS = 3, 1
PAST_TOKENS, DECODE_TOKENS, PREFILL_TOKENS = 128, 64, 512
LONG_TOKENS, OTHERS = 2_000, 3
VOCAB = 49_152


@dataclass(slots=True)
class Measured:
    """Ratios of each round, by figure."""

    ratios: dict[str, list[float]] = field(default_factory=dict)

    def note(self, figure: str, value: float) -> None:
        self.ratios.setdefault(figure, []).append(value)

    def median(self, figure: str) -> float:
        return statistics.median(self.ratios[figure])


async def measure(model: LocalModel, raw: RawProcess, *, rounds: int, beside: int) -> Measured:
    found = Measured()
    seed = 1
    for number in range(rounds):
        for ratio in (_decode, _prefill, _four_streams):
            seed += 1
            await ratio(model, raw, found, seed, is_raw_first=bool(number % 2))
        harness.progress(f"round {number + 1} of {rounds}")
    for number in range(beside):
        await _beside(model, raw, found, 1_000 + number)
        harness.progress(f"prompt beside answers {number + 1} of {beside}")
    return found

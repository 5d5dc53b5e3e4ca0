"""Answers of one engine with the time of each of their tokens, and what follows from these times."""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.execution.local import Evaluated, LocalModel

GREEDY = Sampling()
ENDLESS = Sampling(logit_bias=((0, -100.0), (2, -100.0)))
"""Greedy, and never one of SmolLM2's end tokens."""
WARM_TOKENS = 40


@dataclass(slots=True)
class Answered:
    """`token_s`: when each token came; `begun_s`: when the first piece of the prompt was asked for."""

    begun_s: float
    token_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    num_reused: int = 0

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.begun_s

    @property
    def gaps_s(self) -> list[float]:
        return [b - a for a, b in zip(self.token_s, self.token_s[1:], strict=False)]

    @property
    def tokens_s(self) -> float:
        """Tokens a second behind the first."""
        return (len(self.token_s) - 1) / (self.token_s[-1] - self.token_s[0])


RUN = random.randrange(2**32)
"""Prompts of another run are kept on disk: this one must not find them."""


def any_tokens(num_vocab: int, count: int, seed: int) -> tuple[int, ...]:
    """A prompt that no cache has: any ids but the control tokens."""
    draw = random.Random(f"{RUN} {seed}")
    return tuple(draw.randrange(300, num_vocab) for _ in range(count))


async def answer(model: LocalModel, prompt: Sequence[int], max_tokens: int, *, sampling: Sampling = GREEDY) -> Answered:
    """One whole answer."""
    found = Answered(time.perf_counter())
    generation = Generation(f"bench-{id(found)}", model.settings.variant_sha256, tuple(prompt), sampling, max_tokens)
    async with contextlib.aclosing(model.generate(generation)) as events:
        async for event in events:
            if isinstance(event, TokenStep):
                found.token_s.append(time.perf_counter())
                found.tokens.append(event.token)
            elif isinstance(event, Evaluated) and event.reused is not None:
                found.num_reused = event.reused
    return found


def common_rate(answers: Sequence[Answered]) -> float:
    """Tokens a second of all answers together, while all of them were decoding."""
    first = max(each.token_s[0] for each in answers)
    last = min(each.token_s[-1] for each in answers)
    count = sum(sum(first < at <= last for at in each.token_s) for each in answers)
    return count / (last - first)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a long prompt beside other answers costs both."""

    idle_tpot_s: float
    tpot_s: tuple[float, ...]
    prefill_s: float


async def prompt_beside(model: LocalModel, prompts: Sequence[Sequence[int]], long_prompt: Sequence[int]) -> Beside:
    """Answers to `prompts` decode; after a while `long_prompt` comes, and they go on until it has its first token."""
    tasks = [asyncio.create_task(_running(model, prompt)) for prompt in prompts]
    running = [await task for task in tasks]
    try:
        await asyncio.gather(*(each.warmed.wait() for each in running))
        idle = [gap for each in running for gap in each.answered.gaps_s[8:]]
        long_one = await answer(model, long_prompt, 1)
        begun, ended = long_one.begun_s, long_one.token_s[0]
        gaps = [
            b - a
            for each in running
            for a, b in zip(each.answered.token_s, each.answered.token_s[1:], strict=False)
            if begun <= a and b <= ended
        ]
    finally:
        for each in running:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in running), return_exceptions=True)
    return Beside(statistics.median(idle), tuple(gaps), long_one.ttft_s)


@dataclass(slots=True)
class _Running:
    answered: Answered
    warmed: asyncio.Event
    """Set when there are enough tokens to tell its pace."""
    task: "asyncio.Task[None]"


async def _running(model: LocalModel, prompt: Sequence[int]) -> _Running:
    """An answer under way, once it has its first token."""
    found, begun, warmed = Answered(time.perf_counter()), asyncio.Event(), asyncio.Event()
    generation = Generation(f"bench-{id(found)}", model.settings.variant_sha256, tuple(prompt), ENDLESS, 3000)

    async def run() -> None:
        async with contextlib.aclosing(model.generate(generation)) as events:
            async for event in events:
                if isinstance(event, TokenStep):
                    found.token_s.append(time.perf_counter())
                    begun.set()
                    if len(found.token_s) >= WARM_TOKENS:
                        warmed.set()

    task = asyncio.create_task(run())
    await begun.wait()
    return _Running(found, warmed, task)

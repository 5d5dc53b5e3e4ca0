"""Answers of one engine with the time of each of their tokens, and what follows from these times."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
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

    def between(self, begun_s: float, ended_s: float) -> tuple[int, int]:
        """The gaps that lie within this time, as a range."""
        inside = [
            i
            for i, (a, b) in enumerate(zip(self.token_s, self.token_s[1:], strict=False))
            if a >= begun_s and b <= ended_s
        ]
        return (inside[0], inside[-1] + 1) if inside else (0, 0)

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


@dataclass(frozen=True, slots=True)
class Together:
    """What several answers did while all of them were decoding."""

    tokens_s: float
    num_steps: int
    """Tokens of each, on average."""
    num_before: int
    """Tokens that each had before, on average: a later token costs more."""


def together(answers: Sequence[Answered]) -> Together:
    first = max(each.token_s[0] for each in answers)
    last = min(each.token_s[-1] for each in answers)
    before = sum(sum(at <= first for at in each.token_s) for each in answers)
    count = sum(sum(first < at <= last for at in each.token_s) for each in answers)
    return Together(count / (last - first), round(count / len(answers)), round(before / len(answers)))


@dataclass(frozen=True, slots=True)
class Beside:
    """What a long prompt beside other answers costs both. Gaps are between tokens of the other answers."""

    gaps_s: tuple[float, ...]
    idle_gaps_s: tuple[float, ...]
    """Of the same answers without the prompt, at the same positions: a later token costs more."""
    prefill_s: float


async def prompt_beside(model: LocalModel, prompts: Sequence[Sequence[int]], long_prompt: Sequence[int]) -> Beside:
    """Answers to `prompts` decode; after a while `long_prompt` comes, and they go on until it has its first token."""
    async with _running(model, prompts) as others:
        await asyncio.gather(*(each.reached(WARM_TOKENS) for each in others))
        long_one = await answer(model, long_prompt, 1)
        begun, ended = long_one.begun_s, long_one.token_s[0]
        ranges = [each.answered.between(begun, ended) for each in others]
        gaps = [gap for each, (a, b) in zip(others, ranges, strict=True) for gap in each.answered.gaps_s[a:b]]
    async with _running(model, prompts) as others:
        await asyncio.gather(*(each.reached(b + 1) for each, (_, b) in zip(others, ranges, strict=True)))
        idle = [gap for each, (a, b) in zip(others, ranges, strict=True) for gap in each.answered.gaps_s[a:b]]
    return Beside(tuple(gaps), tuple(idle), long_one.ttft_s)


class _Running:
    """An endless answer under way."""

    def __init__(self) -> None:
        self.answered = Answered(time.perf_counter())
        self._came = asyncio.Event()

    async def run(self, model: LocalModel, prompt: Sequence[int]) -> None:
        generation = Generation(f"bench-{id(self)}", model.settings.variant_sha256, tuple(prompt), ENDLESS, 3000)
        async with contextlib.aclosing(model.generate(generation)) as events:
            async for event in events:
                if isinstance(event, TokenStep):
                    self.answered.token_s.append(time.perf_counter())
                    self._came.set()

    async def reached(self, num_tokens: int) -> None:
        while len(self.answered.token_s) < num_tokens:
            self._came.clear()
            await self._came.wait()


@contextlib.asynccontextmanager
async def _running(model: LocalModel, prompts: Sequence[Sequence[int]]) -> AsyncIterator[list[_Running]]:
    """Answers that are ended at the end."""
    found = [_Running() for _ in prompts]
    tasks = [asyncio.create_task(each.run(model, prompt)) for each, prompt in zip(found, prompts, strict=True)]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""Asks a model, and maybe a larger one, questions with known answers: what a cascade's confidence is fitted on."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeagent.agent.answering import Answerer
from edgeagent.agent.cascading import Events, ask_larger, ask_small
from edgeagent.agent.drafting import Material
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.events import Finished, Text
from edgeagent.core.generation import TokenStep
from edgeagent.core.plan import ReductionLevel
from edgeagent.model.cascade import Outcome
from edgeagent.model.grading import Item
from edgeagent.model.pool import ModelPool


@dataclass(frozen=True, slots=True)
class Answered:
    """`seconds` is wall time, from asking to the end."""

    text: str
    tokens: tuple[TokenStep, ...]
    is_cut: bool
    seconds: float


class Examiner:
    """Puts questions as the assistant would: greedily, without memory, documents or tools. Models go by their names."""

    def __init__(self, pool: ModelPool, answerer: Answerer, max_tokens: int) -> None:
        self._pool = pool
        self._answerer = answerer
        self._max_tokens = max_tokens

    async def outcomes(
        self, items: Sequence[Item], small: str, larger: str | None, on_step: Callable[[str, int, int], None]
    ) -> list[Outcome]:
        """Every question's outcome, of one model after the other. Raises EdgeAgentError when one cannot answer."""
        if larger:
            await self.larger(items[0], larger, small)  # whoever is not there is missed now, not after minutes
        await self.small(items[0], small)  # loading takes no part in the times
        first: list[Answered] = []
        for number, item in enumerate(items, 1):
            first.append(await self.small(item, small))
            on_step("small model", number, len(items))
        second: list[Answered | None] = [None] * len(items)
        for i in range(len(items) if larger else 0):
            second[i] = await self.larger(items[i], str(larger), small)
            on_step("larger model", i + 1, len(items))
        return [_outcome(*each) for each in zip(items, first, second, strict=True)]

    async def small(self, item: Item, name: str) -> Answered:
        request = self._request(item)
        async with self._pool.lease(name) as small:
            return await _collect(ask_small(self._answerer, request, _material(request), small, time.monotonic()))

    async def larger(self, item: Item, name: str, small: str) -> Answered:
        request = self._request(item)
        async with self._pool.lease(small) as resident:
            return await _collect(ask_larger(self._pool, self._answerer, request, _material(request), name, resident))

    def _request(self, item: Item) -> ChatRequest:
        wish = Extension(memory=False, reduce=ReductionLevel.L0)
        messages = (Message(role="user", content=item.question),)
        return ChatRequest(messages=messages, max_tokens=self._max_tokens, edgeagent=wish)


def _material(request: ChatRequest) -> Material:
    return Material(request.messages, (), (), request.messages[-1].content)


async def _collect(source: Events) -> Answered:
    begun_at, text, is_cut = time.monotonic(), "", False
    tokens: list[TokenStep] = []
    async with contextlib.aclosing(source) as events:
        async for event in events:
            if isinstance(event, Text):
                text += event.text
                tokens += event.tokens
            elif isinstance(event, Finished):
                is_cut = event.reason == "length"
    return Answered(text, tuple(tokens), is_cut, time.monotonic() - begun_at)


def _outcome(item: Item, small: Answered, larger: Answered | None) -> Outcome:
    return Outcome(
        tokens=small.tokens,
        is_cut=small.is_cut,
        is_right=item.accepts(small.text),
        small_s=small.seconds,
        larger_is_right=item.accepts(larger.text) if larger else None,
        larger_s=larger.seconds if larger else None,
    )

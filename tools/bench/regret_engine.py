"""Engines that take the time that was measured and compute nothing: the product's own handles drive them.

`LocalModel`, `StageModel` and all above them are the product's; only the worker process below is replaced. It does one
piece of work after the other, and one that is under way ends before the next begins, whoever stopped waiting for it.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from typing import Any

from regret_pieces import Line, Part, Pieces

from edgeagent.core.stages import Cut
from edgeagent.execution.channel import Buffers, Files, Received
from edgeagent.execution.loading import LoadedFacts, LoadSettings
from edgeagent.execution.local import LocalModel
from edgeagent.execution.stages import StageFacts, StageModel
from edgeagent.execution.supervisor import Worker

BESIDE = (1, 2, 3, 4, 5)
"""The prompt of an answer that runs beside: its work is in the pieces already, and it never ends."""
TOKEN = 77
WORD = b" word"

Events = AsyncGenerator[Received, None]


class ReplayedWorker(Worker):
    """Answers the ops of an engine worker after the time that its pieces say."""

    def __init__(self, pieces: Pieces, facts: LoadedFacts, chunk_tokens: int, *, k: int | None = None) -> None:
        self._pieces, self._facts, self._chunk, self._k = pieces, facts, chunk_tokens, k
        self._free_at_s = 0.0
        self._num_cached = 0
        self._afters: dict[int, int] = {}
        self._num_drawn: dict[int, int] = {}

    @property
    def is_alive(self) -> bool:
        return True

    async def close(self) -> None:
        """There is no process."""

    async def stream(self, op: str, bulk: Buffers = (), *, stall_s: float | None = None, **params: Any) -> Events:
        del stall_s
        match op:
            case "prefill":
                events = self._prefill(params["prompt"])
            case "generate":
                events = self._generate(params)
            case "splice":
                events = self._splice(_num_bytes(bulk), len(params["prompt"]))
            case "stage_open":
                events = self._open(params)
            case "stage_run":
                events = self._run(params)
            case "stage_splice":
                events = self._splice(_num_bytes(bulk), len(params["prompt"]))
            case "stage_close":
                events = _reply()
            case _:
                raise ValueError(f"op {op} is not replayed")
        async for event in events:
            yield event

    async def _busy(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._free_at_s = max(self._free_at_s, loop.time()) + seconds
        await asyncio.sleep(self._free_at_s - loop.time())

    async def _fill(self, num_tokens: int) -> Events:
        """In chunks, from what is cached on."""
        reused: int | None = self._num_cached
        while self._num_cached < num_tokens:
            end = min(num_tokens, (self._num_cached // self._chunk + 1) * self._chunk)
            await self._busy(self._span_s(self._pieces.whole, end - self._num_cached, self._num_cached))
            self._num_cached = end
            yield ({"evaluated": end} if reused is None else {"evaluated": end, "reused": reused}), b""
            reused = None

    def _span_s(self, part: Part, tokens: int, past: int) -> float:
        seconds: float = part.span_s(tokens, past, self._pieces.shares, self._chunk)
        return seconds

    async def _prefill(self, prompt: tuple[int, ...]) -> Events:
        self._num_cached = 0
        async for event in self._fill(len(prompt)):
            yield event
        yield {"evaluated": len(prompt)}, b""

    async def _generate(self, params: Any) -> Events:
        prompt, num_output, max_tokens = params["prompt"], len(params["output"]), int(params["max_tokens"])
        if tuple(prompt) == BESIDE:
            await asyncio.Event().wait()
        num_known = len(prompt) + num_output
        self._num_cached = min(self._num_cached, num_known - 1)
        async for event in self._fill(num_known):
            yield event
        if params["export_kv"]:
            yield {"cells": len(prompt)}, bytes(len(prompt) * self._facts.kv_bytes_per_token)
        for position in range(num_output, max_tokens):
            if position > num_output:
                await self._busy(self._pieces.whole.step_s.at(self._num_cached))
                self._num_cached += 1
            yield {"token": TOKEN, "position": position, "is_end": False}, WORD
        yield {"reason": "length"}, b""

    async def _splice(self, num_bytes: int, num_tokens: int) -> Events:
        await self._busy(self._pieces.splice_s.at(num_bytes))
        self._num_cached = num_tokens
        yield {"tokens": num_tokens}, b""

    async def _open(self, params: Any) -> Events:
        await self._busy(self._pieces.open_s)
        self._afters[params["session"]] = params["after"] or 0
        self._num_drawn[params["session"]] = 0
        yield {}, b""

    async def _run(self, params: Any) -> Events:
        session, first = params["session"], int(params["position"])
        k = self._k if self._k is not None else self._afters[session]
        for span in params["spans"]:
            await self._busy(self._span_s(self._pieces.parts[k], span, first))
            if self._k is None:
                yield {"rows": [first, span]}, bytes(span * self._facts.width * 4)
            if params.get("cells"):
                yield {"cells": [first, first + span]}, bytes(span * self._behind_bytes(k))
            first += span
        if params.get("draw"):
            position = self._num_drawn[session]
            self._num_drawn[session] += 1
            yield {"token": TOKEN, "position": position, "is_end": False}, WORD
            reason = "length" if position + 1 == params["max_tokens"] else None
            yield {"tokens": first, "drawn": 1, "reason": reason}, b""
        else:
            yield {"tokens": first}, b""

    def _behind_bytes(self, k: int) -> int:
        """Of a token's cells in the layers from `k` on."""
        planes = self._facts.kv_planes
        half = len(planes) // 2
        return sum(planes[:half][k:]) + sum(planes[half:][k:])


def _num_bytes(bulk: Buffers) -> int:
    return 0 if isinstance(bulk, Files) else sum([memoryview(each).nbytes for each in bulk])


async def _reply() -> Events:
    yield {}, b""


class ReplayedLocal(LocalModel):
    """A whole model at one end."""

    def __init__(self, settings: LoadSettings, facts: LoadedFacts, pieces: Pieces) -> None:
        super().__init__(settings)
        self._facts = facts
        self._worker = ReplayedWorker(pieces, facts, settings.chunk_tokens)


class ReplayedTail(StageModel):
    """The layers from `k` on at the peer."""

    def __init__(
        self, settings: LoadSettings, facts: LoadedFacts, stage_facts: StageFacts, pieces: Pieces, k: int
    ) -> None:
        super().__init__(settings, Cut.of(k, facts.layers, facts.layers), settings.variant_sha256, slots=2)
        self._facts = stage_facts
        self._worker = ReplayedWorker(pieces, facts, settings.chunk_tokens, k=k)


def interpolated(parts: dict[int, Part], layers: int) -> dict[int, Part]:
    """Parts for every k, of those measured at some: time is a line over k between two of them."""
    found = dict(parts)
    for low, high in itertools.pairwise(sorted(parts)):
        for k in range(low + 1, min(high, layers)):
            weight = (k - low) / (high - low)
            found[k] = Part(
                _between(parts[low].chunk_s, parts[high].chunk_s, weight),
                _between(parts[low].step_s, parts[high].step_s, weight),
            )
    return found


def _between(low: Line, high: Line, weight: float) -> Line:
    return Line(low.base + (high.base - low.base) * weight, low.slope + (high.slope - low.slope) * weight)

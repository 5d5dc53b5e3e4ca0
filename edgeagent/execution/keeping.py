"""Keeps what engines have evaluated outside of them: for the next turn, for a restart, for when a worker dies."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edgeagent.core.errors import EngineError, EngineLostError, OutOfMemoryError
from edgeagent.execution import canonical
from edgeagent.execution.channel import FILES, Files, Message
from edgeagent.execution.kvstore.store import KvStore, Match
from edgeagent.execution.supervisor import Worker

log = logging.getLogger(__name__)

WORTH_RESTORING = 32
"""Tokens: finding, checking and copying kept cells costs about as much as evaluating some."""
REST_S = 0.3
"""The engine has been left alone for so long: a next answer would rather not wait."""
SETTLE_S = 1.5
"""Then what was kept is written to disk: another turn of the same conversation would add to it."""
FLUSH_S = 5.0


@dataclass(frozen=True, slots=True)
class Cells:
    """How a model's cache cells are told apart and laid out. `planes`: row bytes of K, then V of every layer."""

    key: str
    planes: tuple[int, ...]
    chunk_tokens: int
    is_free: bool
    """Shapes of batches change no bit: see `core.invariance`."""

    def of(self, adapter: str) -> "Cells":
        """Those evaluated with an adapter (by its hash; empty: none), which are never used without it."""
        return replace(self, key=f"{self.key}+{adapter}", is_free=False) if adapter else self

    def symbols(self, prompt: Sequence[int], output: Sequence[int]) -> list[int]:
        spans = [] if self.is_free else canonical.spans(len(prompt), len(output), self.chunk_tokens)
        return canonical.symbols([*prompt, *output], spans)


@dataclass(slots=True)
class Keeping:
    """The kept cells of one model, apart for each of its adapters (by hash; empty: none).

    Nothing here can fail an answer: what is not found is evaluated.
    """

    store: KvStore
    cells: Cells
    _finished: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = field(default_factory=dict)
    _tidying: "asyncio.Task[None] | None" = None

    async def restore(self, worker: Worker, prompt: Sequence[int], output: Sequence[int], adapter: str = "") -> int:
        """Give a worker the cells of these tokens that are kept and that it lacks; how many are kept.

        Cells that it refuses are forgotten. Raises what ends the worker.
        """
        cells = self.cells.of(adapter)
        symbols = cells.symbols(prompt, output)
        covered = self.store.covered(cells.key, symbols)
        if covered < WORTH_RESTORING:
            return covered
        reply, _ = await worker.call("held", prompt=prompt, output=output, adapter=adapter)
        if covered - int(reply["tokens"]) < WORTH_RESTORING:
            return covered
        await self.store.prepare(cells.key, symbols)
        try:
            if match := self.store.match(cells.key, symbols):
                with match:
                    await _hand_over(worker, match, prompt, output, adapter)
        except (EngineError, OutOfMemoryError) as error:
            if isinstance(error, EngineLostError) or not worker.is_alive:
                raise
            log.warning(
                "kept cells were refused and are evaluated again", extra={"cells": covered, "reason": str(error)}
            )
            self.store.forget(cells.key, symbols)
            return 0
        return covered

    async def num_kept(self, prompt: Sequence[int], adapter: str = "") -> int:
        """How many cells of a prompt are kept, from the first on."""
        await self.store.load()
        cells = self.cells.of(adapter)
        return self.store.covered(cells.key, cells.symbols(prompt, ()))

    def take(self, event: Message, prompt: Sequence[int], output: Sequence[int], adapter: str = "") -> None:
        """Keep the cells of a `kept` event or reply."""
        if not event.get("kept"):
            return
        first, end = event["kept"]
        (descriptor,) = event[FILES]
        cells = self.cells.of(adapter)
        symbols = cells.symbols(prompt[:end], output[: max(0, end - len(prompt))])
        self.store.add(cells.key, symbols, first, descriptor, cells.planes)

    def note_finished(
        self, worker: Worker, prompt: tuple[int, ...], output: tuple[int, ...], adapter: str = ""
    ) -> None:
        """An answer ended: keep the rest of its cells when the engine has time."""
        self._finished[adapter, prompt] = output
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._tidy(worker), name="keep-cells")

    async def _tidy(self, worker: Worker) -> None:
        await asyncio.sleep(REST_S)
        await self._keep_finished(worker)
        await asyncio.sleep(SETTLE_S)
        await self._keep_finished(worker)
        await self.store.persist()

    async def flush(self, worker: Worker) -> None:
        """Keep and write everything now: the worker is about to end."""
        if self._tidying is not None:
            self._tidying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tidying
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._keep_finished(worker)
                await self.store.persist()

    async def _keep_finished(self, worker: Worker) -> None:
        while self._finished and worker.is_alive:
            (adapter, prompt), output = self._finished.popitem()
            cells = self.cells.of(adapter)
            first = self.store.covered(cells.key, cells.symbols(prompt, output))
            with contextlib.suppress(EngineError, OutOfMemoryError):  # a worker that is lost has nothing to give
                reply, _ = await worker.call("keep", prompt=prompt, output=output, first=first, adapter=adapter)
                self.take(reply, prompt, output, adapter)


async def _hand_over(worker: Worker, match: Match, prompt: Sequence[int], output: Sequence[int], adapter: str) -> None:
    await worker.call(
        "restore",
        Files([part.descriptor for part in match.parts]),
        parts=[[part.num_cells, part.skip, part.take] for part in match.parts],
        prompt=prompt[: match.num_cells],
        output=output[: max(0, match.num_cells - len(prompt))],
        adapter=adapter,
    )
    log.debug("kept cells restored tokens=%d", match.num_cells)

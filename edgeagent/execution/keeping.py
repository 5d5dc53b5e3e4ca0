"""Keeps what engines have evaluated outside of them: for the next turn, for a restart, for when a worker dies."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeagent.core.errors import EngineError
from edgeagent.execution import canonical
from edgeagent.execution.channel import FILES, Files, Message
from edgeagent.execution.kvstore.store import KvStore
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

    def symbols(self, prompt: Sequence[int], output: Sequence[int]) -> list[int]:
        spans = [] if self.is_free else canonical.spans(len(prompt), len(output), self.chunk_tokens)
        return canonical.symbols([*prompt, *output], spans)


@dataclass(slots=True)
class Keeping:
    """The kept cells of one model. Nothing here can fail an answer: what is not found is evaluated."""

    store: KvStore
    cells: Cells
    _finished: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    _tidying: "asyncio.Task[None] | None" = None

    async def restore(self, worker: Worker, prompt: Sequence[int], output: Sequence[int]) -> int:
        """Give a worker the cells of these tokens that are kept and that it lacks; how many are kept.

        Raises EngineLostError.
        """
        symbols = self.cells.symbols(prompt, output)
        covered = self.store.covered(self.cells.key, symbols)
        if covered < WORTH_RESTORING:
            return covered
        reply, _ = await worker.call("held", prompt=prompt, output=output)
        if covered - int(reply["tokens"]) >= WORTH_RESTORING:
            await self._restore(worker, prompt, output, symbols)
        return covered

    async def _restore(
        self, worker: Worker, prompt: Sequence[int], output: Sequence[int], symbols: Sequence[int]
    ) -> None:
        await self.store.prepare(self.cells.key, symbols)
        match = self.store.match(self.cells.key, symbols)
        if match is None:
            return
        with match:
            await worker.call(
                "restore",
                Files([part.descriptor for part in match.parts]),
                parts=[[part.num_cells, part.skip, part.take] for part in match.parts],
                prompt=prompt[: match.num_cells],
                output=output[: max(0, match.num_cells - len(prompt))],
            )
        log.debug("kept cells restored tokens=%d", match.num_cells)

    def take(self, event: Message, prompt: Sequence[int], output: Sequence[int]) -> None:
        """Keep the cells of a `kept` event or reply."""
        if not event.get("kept"):
            return
        first, end = event["kept"]
        (descriptor,) = event[FILES]
        symbols = self.cells.symbols(prompt[:end], output[: max(0, end - len(prompt))])
        self.store.add(self.cells.key, symbols, first, descriptor, self.cells.planes)

    def note_finished(self, worker: Worker, prompt: tuple[int, ...], output: tuple[int, ...]) -> None:
        """An answer ended: keep the rest of its cells when the engine has time."""
        self._finished[prompt] = output
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
            prompt, output = self._finished.popitem()
            first = self.store.covered(self.cells.key, self.cells.symbols(prompt, output))
            with contextlib.suppress(EngineError):  # a worker that is lost has nothing to give
                reply, _ = await worker.call("keep", prompt=prompt, output=output, first=first)
                self.take(reply, prompt, output)

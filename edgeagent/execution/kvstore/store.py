"""The daemon's store of KV cache rows: for resume after a crash, reuse after eviction, and restore after a restart.

Rows are opaque bytes here. A worker hands them over in memory files, gets them back as open files, and may die in
between. All calls come from one thread, the event loop's; what takes long runs in others, on descriptors of its own.
A cache that cannot be written or read costs time, never an answer: nothing here raises for the disk's sake.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgeagent.execution.kvstore.folder import KvFolder
from edgeagent.execution.kvstore.gathering import open_block
from edgeagent.execution.kvstore.inventory import MAX_IN_MEMORY, Inventory, KvLimits
from edgeagent.execution.kvstore.layout import MAX_KEY_BYTES, MAX_PATH, MAX_PLANES
from edgeagent.execution.kvstore.reading import KvReader, unverified
from edgeagent.execution.kvstore.rows import seal
from edgeagent.execution.kvstore.tree import Block, Run, as_path
from edgeagent.execution.kvstore.tree import Path as CellPath
from edgeagent.execution.kvstore.writing import KvWriter

__all__ = ["KvLimits", "KvStats", "KvStore", "Match", "Part"]

MAX_PARTS = 200
"""Of one match: a packet takes at most 253 descriptors (SCM_MAX_FD)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Cells `[skip, skip + take)` of `num_cells`: their rows are in an open file, plane after plane, from offset 0.

    A file on disk goes on after its rows; `descriptor` may be shared, so read it with `pread` or `mmap`.
    """

    descriptor: int
    num_cells: int
    skip: int
    take: int


class Match:
    """The first `num_cells` cells of a path, part after part; closes its descriptors at the end of `with`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.num_cells = sum(part.take for part in self.parts)
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            for part in self.parts:
                os.close(part.descriptor)


@dataclass(frozen=True, slots=True)
class KvStats:
    """What is kept now, and what happened since the start."""

    ram_bytes: int
    disk_bytes: int
    num_blocks: int
    num_hits: int
    num_misses: int
    num_cells_found: int
    num_written: int
    num_evicted: int
    num_damaged: int


class KvStore:
    """Rows by key and path. `folder` None: in memory only. `now` tells seconds since the epoch."""

    def __init__(self, folder: Path | None, limits: KvLimits, now: Callable[[], float]) -> None:
        self._folder = KvFolder(folder) if folder is not None and limits.disk_bytes > 0 else None
        self._kept = Inventory(self._folder, limits, now)
        self._reader: KvReader | None = KvReader(self._kept, self._folder) if self._folder else None
        self._writer = KvWriter(self._kept, self._folder)
        self._num_hits = self._num_misses = self._num_cells_found = 0

    def add(self, key: str, symbols: Sequence[int], first: int, descriptor: int, planes: Sequence[int]) -> None:
        """Keep the rows of cells `[first, len(symbols))`, which are all that a memory file holds; owns the descriptor.

        `planes`: bytes of one row of each plane. What is known already is ignored, and so are rows that do not fit:
        cells before `first` that are not known, a file of another size, planes unlike those of this key so far.
        Raises OverflowError for a symbol that is no signed 64-bit number.
        """
        self._load()
        try:
            path = as_path(symbols)
        except OverflowError:
            os.close(descriptor)
            raise
        block = Block(key, first, len(path) - first, tuple(planes), self._kept.use_time(), descriptor)
        if not _is_sound(block, path):
            log.warning(
                "KV rows do not fit their cells; not kept", extra={"first": first, "num_cells": block.num_cells}
            )
            os.close(descriptor)
        elif not self._kept.insert(path, block):
            log.debug("KV rows not kept: known already, or what is before them is not", extra={"first": first})
            os.close(descriptor)
        else:
            self._settle(block)

    async def load(self) -> None:
        """Look through the folder in threads, if that was not done yet: the other calls would do it at once."""
        if self._reader is not None:
            await self._reader.load_in_thread()

    def covered(self, key: str, symbols: Sequence[int]) -> int:
        """How many of the first symbols `match` would find, if all files are in order."""
        self._load()
        return sum(run.take for run in self._runs(key, as_path(symbols)))

    async def prepare(self, key: str, symbols: Sequence[int]) -> None:
        """Do in threads what may take `match` long: look through the folder, and verify the files it will use."""
        if self._reader is None:
            return
        await self._reader.load_in_thread()
        if blocks := unverified(self._runs(key, as_path(symbols))):
            self._reader.note_verdicts(blocks, await asyncio.to_thread(self._reader.verdicts, blocks))

    def match(self, key: str, symbols: Sequence[int]) -> Match | None:
        """The longest known beginning of `symbols`, None if there is none; a damaged file is deleted, and ends it."""
        self._load()
        path = as_path(symbols)
        if self._reader and (blocks := unverified(self._runs(key, path))):
            self._reader.note_verdicts(blocks, self._reader.verdicts(blocks))
        match = Match(list(self._opened(self._runs(key, path))))
        self._num_hits += match.num_cells > 0
        self._num_misses += match.num_cells == 0
        self._num_cells_found += match.num_cells
        return match if match.num_cells else None

    def forget(self, key: str, symbols: Sequence[int]) -> None:
        """Drop the rows of a beginning of `symbols`, in memory and on disk, and what continues them: they are wrong."""
        if runs := self._runs(key, as_path(symbols)):
            self._kept.forget(runs[0].block)

    async def persist(self) -> int:
        """Gather what came in pieces, and write to disk what is not there; the number of files written.

        What was used last goes first, parents before what continues them. While one call is at work another returns 0.
        """
        if self._reader:
            self._reader.inherit()
            await self._reader.load_in_thread()
            self._heed()
        return await self._writer.persist()

    def stats(self) -> KvStats:
        kept = self._kept
        return KvStats(
            ram_bytes=kept.ram_bytes,
            disk_bytes=kept.disk_bytes,
            num_blocks=len(kept.blocks),
            num_hits=self._num_hits,
            num_misses=self._num_misses,
            num_cells_found=self._num_cells_found,
            num_written=self._writer.num_written,
            num_evicted=kept.num_evicted,
            num_damaged=self._reader.num_damaged if self._reader else 0,
        )

    def close(self) -> None:
        """Let go of memory and folder; what is not persisted is lost."""
        self._writer.close()
        if self._reader and self._folder:
            self._reader.note_uses()
            self._reader = None
            self._folder.close()
        for block in self._kept.blocks:
            self._kept.drop_memory(block)

    def _load(self) -> None:
        if self._reader:
            self._reader.load()
            self._heed()

    def _heed(self) -> None:
        """Forget all if somebody forgot what may be in it (`folder.forget_all`)."""
        if self._folder and self._folder.take_mark():
            self._kept.forget_all()

    def _runs(self, key: str, path: CellPath) -> list[Run]:
        return self._kept.runs(key, path)[:MAX_PARTS]

    def _settle(self, block: Block) -> None:
        assert block.memory is not None
        seal(block.memory)
        if self._kept.num_in_memory > MAX_IN_MEMORY:
            self._writer.compact()
        self._kept.fit_memory()

    def _opened(self, runs: Sequence[Run]) -> Iterator[Part]:
        now = self._kept.use_time()
        for run in runs:
            if run.block.memory is None and not run.block.is_verified:
                return  # it could not be verified now
            try:
                descriptor = open_block(run.block, self._folder)
            except OSError as error:
                log.warning("KV rows cannot be opened", extra={"file": run.block.name, "reason": error.strerror})
                if isinstance(error, FileNotFoundError):
                    self._kept.forget(run.block)
                return
            run.block.touch(now)
            yield Part(descriptor, run.block.num_cells, run.skip, run.take)


def _is_sound(block: Block, path: CellPath) -> bool:
    return (
        0 <= block.first < len(path) <= MAX_PATH
        and len(block.key.encode()) <= MAX_KEY_BYTES
        and 0 < len(block.planes) <= MAX_PLANES
        and all(0 < row_bytes < 2**32 for row_bytes in block.planes)
        and block.memory is not None
        and os.fstat(block.memory).st_size == block.num_bytes
    )

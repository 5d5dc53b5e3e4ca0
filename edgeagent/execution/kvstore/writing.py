"""Gathers what came in pieces, and writes it to disk: decided on the event loop, done in threads."""

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import partial

from edgeagent.execution.kvstore.chains import chains
from edgeagent.execution.kvstore.folder import KvFolder
from edgeagent.execution.kvstore.gathering import Gathered, Gathering, plan
from edgeagent.execution.kvstore.inventory import Inventory
from edgeagent.execution.kvstore.layout import file_bytes
from edgeagent.execution.kvstore.tree import Block, Node

log = logging.getLogger(__name__)


class KvWriter:
    """Makes few long blocks of many short ones; `folder` None: in memory only."""

    def __init__(self, kept: Inventory, folder: KvFolder | None) -> None:
        self._kept = kept
        self._folder = folder
        self._is_busy = self._is_gathering = self._is_closed = self._has_failed = False
        self.num_written = 0

    async def persist(self) -> int:
        """The number of files written; 0 at once while another call, or what a cancelled one left, is at work."""
        if self._is_busy or self._is_gathering or self._is_closed:
            return 0
        self._is_busy = True
        before = self.num_written
        try:
            await self._gather_all()
            if self.num_written > before and self._folder:
                await asyncio.to_thread(self._folder.sync)
        finally:
            self._is_busy = False
        return self.num_written - before

    def compact(self) -> None:
        """Gather in memory alone, at once."""
        for gathering in map(self._planned_in_memory, self._chains(None)):
            if gathering:
                try:
                    self._adopt(gathering, gathering.run())
                except OSError as error:
                    _warn_of_rows(error)

    def close(self) -> None:
        self._is_closed = True

    async def _gather_all(self) -> None:
        to_disk = self._folder if self._folder and self._folder.is_owned else None
        planned = self._planned_on_disk if to_disk else self._planned_in_memory
        for chain in self._chains(to_disk):
            gathering = planned(chain)
            if gathering and not await self._gathered(gathering):
                break

    async def _gathered(self, gathering: Gathering) -> bool:
        """Whether going on makes sense. A cancelled caller leaves the thread to its work, and the result is adopted."""
        self._is_gathering = True  # until adopted: the same file twice at once would tear it
        work = asyncio.ensure_future(asyncio.to_thread(gathering.run))
        work.add_done_callback(partial(self._finished, gathering))
        try:
            gathered = await asyncio.shield(work)
        except OSError:
            return True
        return gathered.error is None and not self._is_closed

    def _finished(self, gathering: Gathering, work: "asyncio.Future[Gathered]") -> None:
        self._is_gathering = False
        if work.cancelled():
            return
        if isinstance(error := work.exception(), OSError):
            _warn_of_rows(error)
        elif error is None:
            self._adopt(gathering, work.result())

    def _adopt(self, gathering: Gathering, gathered: Gathered) -> None:
        self._note_outcome(gathered)
        if self._is_closed:
            os.close(gathered.memory)
            return
        block = gathering.block(gathered)
        if self._kept.rebase(gathering.header.path, block):
            self._kept.fit_memory()
            return
        os.close(gathered.memory)  # evicted meanwhile
        if gathered.name and self._folder:
            self._folder.remove(gathered.name)

    def _note_outcome(self, gathered: Gathered) -> None:
        if gathered.name:
            self.num_written += 1
            self._has_failed = False
        elif gathered.error and self._folder and not self._has_failed:
            self._has_failed = True  # told once, not at each try
            log.warning(
                "KV rows cannot be written to disk and stay in memory; make room in the folder, or lower their quota",
                extra={"folder": str(self._folder.path), "reason": gathered.error.strerror},
            )

    def _chains(self, to_disk: KvFolder | None) -> list[list[Node]]:
        is_fresh, may_join = (_is_unwritten, _is_trusted) if to_disk else (_is_raw, _is_in_memory_alone)
        found = [chain for tree in self._kept.trees.values() for chain in chains(tree, is_fresh, may_join)]
        return sorted(found, key=lambda chain: -chain[0].block.used_at)  # stable: parents stay first

    def _planned_in_memory(self, chain: Sequence[Node]) -> Gathering | None:
        return self._planned(chain, None) if len(chain) > 1 else None

    def _planned_on_disk(self, chain: Sequence[Node]) -> Gathering | None:
        """None also when what comes before is not on disk, or nothing there is less worth keeping."""
        above = chain[0].parent
        if above is None or (above.parent is not None and above.block.name is None):
            return None
        gathering = self._planned(chain, self._folder)
        if gathering and not self._kept.make_room(file_bytes(gathering.header), chain[-1].block):
            gathering.close()
            return None
        return gathering

    def _planned(self, chain: Sequence[Node], to_disk: KvFolder | None) -> Gathering | None:
        try:
            return plan(chain, self._folder, to_disk)
        except OSError as error:
            _warn_of_rows(error)
            return None


def _is_unwritten(block: Block) -> bool:
    return block.name is None


def _is_trusted(block: Block) -> bool:
    return block.memory is not None or block.is_verified


def _is_raw(block: Block) -> bool:
    return not block.is_gathered


def _is_in_memory_alone(block: Block) -> bool:
    return block.memory is not None and block.name is None


def _warn_of_rows(error: OSError) -> None:
    log.warning("KV rows cannot be gathered", extra={"reason": error.strerror})

"""What is kept where, and what makes room: memory and disk have a budget each, and what was used last stays.

The copy in memory of what is on disk goes first. A block goes only after what continues it: whoever uses cells uses
all before them too, so whatever continues a block was used no later than the block.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgeagent.execution.kvstore.folder import KvFolder
from edgeagent.execution.kvstore.tree import Block, Path, Run, Tree, cut, runs

MAX_IN_MEMORY = 256
"""Blocks in memory: each is an open file, of which a process may have 1,024 by default."""

USE_TICK_S = 1e-3
"""File times tell two uses apart that are this far from each other."""


@dataclass(frozen=True, slots=True)
class KvLimits:
    """Bytes of rows kept in memory, from where they reach the disk, and of files kept there (0: none)."""

    ram_bytes: int
    disk_bytes: int


class Inventory:
    """All blocks of all keys."""

    def __init__(self, folder: KvFolder | None, limits: KvLimits, now: Callable[[], float]) -> None:
        self.folder = folder
        self.limits = limits
        self.trees: dict[str, Tree] = {}
        self.blocks: set[Block] = set()
        self.ram_bytes = 0
        self.disk_bytes = 0
        self.num_in_memory = 0
        self.num_evicted = 0
        self._now = now
        self._last_use_s = 0.0

    def use_time(self) -> float:
        """Later than every use so far, whatever a clock says that was set back, or ahead before the last restart."""
        self._last_use_s = max(self._now(), self._last_use_s + USE_TICK_S)
        return self._last_use_s

    def runs(self, key: str, path: Path) -> list[Run]:
        """Where the cells of the longest known part of `path` are."""
        tree = self.trees.get(key)
        return runs(tree.walk(path)) if tree else []

    def insert(self, path: Path, block: Block) -> bool:
        """Know a new block; False where it adds nothing, or its cells cannot follow what is known."""
        tree = self.trees.get(block.key) or Tree(block.key, block.planes)
        if tree.planes != block.planes or not tree.insert(path, block):
            return False
        self.trees[block.key] = tree
        self._count(block)
        return True

    def rebase(self, path: Path, block: Block) -> bool:
        """Let a new block replace those of the same cells; False where none of them is known any more."""
        if tree := self.trees.get(block.key):
            self._release(tree.rebase(path, block))
        if block.nodes:
            self._count(block)
        return bool(block.nodes)

    def forget(self, block: Block) -> None:
        """Drop a block and all that continues it."""
        self._release(cut(block.top))
        tree = self.trees[block.key]
        if not tree.root.children:
            del self.trees[block.key]

    def forget_all(self) -> None:
        for block in list(self.blocks):
            if block.nodes:  # else it went with what it continued
                self.forget(block)

    def drop_memory(self, block: Block) -> None:
        if block.memory is not None:
            os.close(block.memory)
            block.memory = None
            self.ram_bytes -= block.num_bytes
            self.num_in_memory -= 1

    def drop_file(self, block: Block) -> None:
        if block.name is not None and self.folder is not None:
            self.folder.remove(block.name)
            block.name = None
            self.disk_bytes -= block.file_bytes

    def fit_memory(self) -> None:
        """Come back under the memory budget."""
        if self._fits_memory():
            return
        by_age = sorted((b for b in self.blocks if b.memory is not None), key=lambda block: block.age)
        for block in by_age:
            if block.name is not None and not self._fits_memory():
                self.drop_memory(block)
        for block in by_age:
            if block.memory is not None and not self._fits_memory():
                self.num_evicted += 1
                self.forget(block)

    def make_room(self, file_bytes: int, wanted_by: Block | None = None) -> bool:
        """Room on disk for `file_bytes`, of blocks unused for longer than `wanted_by`; if there is none, all stays."""
        excess = self.disk_bytes + file_bytes - self.limits.disk_bytes
        if excess <= 0:
            return True
        victims: list[Block] = []
        for block in sorted((b for b in self.blocks if b.name is not None), key=lambda block: block.age):
            if excess <= 0 or (wanted_by and block.age >= wanted_by.age):
                break
            victims.append(block)
            excess -= block.file_bytes
        if excess <= 0:
            self._evict_files(victims)
        return excess <= 0

    def _evict_files(self, victims: Iterable[Block]) -> None:
        for block in victims:
            if not block.nodes:
                continue  # it went with what it continued
            self.num_evicted += 1
            if block.memory is None:
                self.forget(block)
            else:
                self.drop_file(block)  # not written again before it is used: all that is left there is younger

    def _fits_memory(self) -> bool:
        return self.ram_bytes <= self.limits.ram_bytes and self.num_in_memory <= MAX_IN_MEMORY

    def _count(self, block: Block) -> None:
        self._last_use_s = max(self._last_use_s, block.used_at)
        self.blocks.add(block)
        if block.memory is not None:
            self.ram_bytes += block.num_bytes
            self.num_in_memory += 1
        if block.name is not None:
            self.disk_bytes += block.file_bytes

    def _release(self, freed: Iterable[Block]) -> None:
        for block in freed:
            self.drop_memory(block)
            self.drop_file(block)
            self.blocks.discard(block)

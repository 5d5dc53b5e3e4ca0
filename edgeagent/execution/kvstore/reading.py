"""Brings back what earlier processes left on disk: headers first, once; rows when they are wanted, verified once."""

import asyncio
import errno
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from edgeagent.execution.kvstore.folder import Found, KvFolder
from edgeagent.execution.kvstore.inventory import Inventory
from edgeagent.execution.kvstore.tree import Block, Run

MAX_VERIFY_THREADS = 4
HEADERS_AT_ONCE = 64
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing of the file."""

log = logging.getLogger(__name__)


class KvReader:
    """Fills the inventory from a folder, and decides which files are believed."""

    def __init__(self, kept: Inventory, folder: KvFolder) -> None:
        self._kept = kept
        self._folder = folder
        self._unread: list[str] | None = None  # None: the folder was not looked at; the next name is the last
        self._one_at_a_time = asyncio.Lock()
        self._has_failed = self._is_partial = False
        self.num_damaged = 0

    def load(self) -> None:
        """Know what the folder holds, if `load_in_thread` is not about to. Blocking the first time, free after."""
        if self._unread == [] or self._one_at_a_time.locked():
            return
        self._unread = self._names()
        while self._unread:
            self._insert(self._read([self._unread.pop()]))
        self._kept.make_room(0)

    async def load_in_thread(self) -> None:
        """The same without blocking the caller."""
        async with self._one_at_a_time:
            if self._unread == []:
                return
            self._unread = await asyncio.to_thread(self._names)
            while self._unread:
                batch = [self._unread.pop() for _ in range(min(HEADERS_AT_ONCE, len(self._unread)))]
                self._insert(await asyncio.to_thread(self._read, batch))
            self._kept.make_room(0)

    def inherit(self) -> None:
        """Own the folder if its owner is gone: the next load then finds what that left there."""
        if not self._folder.is_owned and self._try_own():
            self._unread = None

    def verdicts(self, blocks: Sequence[Block]) -> list[bool | None]:
        """Whether the files of these blocks are intact; None: cannot be told now. Blocking, in several threads."""
        names = [block.name or "" for block in blocks]
        if len(names) == 1:
            return [self._verdict(names[0])]
        with ThreadPoolExecutor(min(MAX_VERIFY_THREADS, os.cpu_count() or 1, max(len(names), 1))) as threads:
            return list(threads.map(self._verdict, names))

    def note_verdicts(self, blocks: Sequence[Block], verdicts: Sequence[bool | None]) -> None:
        """Believe intact files from now on; delete others, and forget what continues them."""
        for block, is_intact in zip(blocks, verdicts, strict=True):
            if block not in self._kept.blocks or is_intact is None:
                continue
            block.is_verified = is_intact
            if not is_intact:
                self.num_damaged += 1
                log.warning(
                    "a file of KV rows is damaged or gone; its cells are computed anew", extra={"file": block.name}
                )
                self._kept.forget(block)

    def note_uses(self) -> None:
        """Leave on disk when each block was last used, for the next process to go by."""
        for block in self._kept.blocks:
            if block.name is not None:
                self._folder.note_use(block.name, block.used_at)

    def _try_own(self) -> bool:
        try:
            return self._folder.try_own()
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning(
                    "the folder of KV rows cannot be written to and they stay in memory; make it writable",
                    extra={"folder": str(self._folder.path), "reason": error.strerror},
                )
            return False

    def _names(self) -> list[str]:
        self._try_own()
        known = {block.name for block in list(self._kept.blocks)}
        return [name for name in reversed(self._folder.names()) if name not in known]

    def _read(self, names: Sequence[str]) -> list[tuple[str, Found | None]]:
        files: list[tuple[str, Found | None]] = []
        for name in names:
            try:
                files.append((name, self._folder.read(name)))
            except OSError as error:
                if error.errno in _SCARCE:
                    self._is_partial = True
                else:
                    files.append((name, None))
        return files

    def _insert(self, files: Sequence[tuple[str, Found | None]]) -> None:
        for name, found in files:
            if found is None:
                self.num_damaged += 1
                log.warning("a file of KV rows is damaged; removed", extra={"file": name})
            elif self._kept.insert(found.header.path, self._block(name, found)):
                continue
            elif self._is_partial:
                continue  # what it continues may be among the files that could not be opened
            else:
                log.debug("a file of KV rows is of no use; removed", extra={"file": name})
            self._folder.remove(name)

    def _block(self, name: str, found: Found) -> Block:
        header = found.header
        block = Block(header.key, header.first, header.num_cells, header.planes, found.used_at)
        block.name, block.file_bytes, block.is_gathered = name, found.file_bytes, True
        return block

    def _verdict(self, name: str) -> bool | None:
        try:
            return self._folder.is_intact(name)
        except OSError as error:
            return None if error.errno in _SCARCE else False


def unverified(runs: Sequence[Run]) -> list[Block]:
    """The blocks of `runs` whose files are to be read and were never verified."""
    blocks = dict.fromkeys(run.block for run in runs)
    return [block for block in blocks if block.memory is None and not block.is_verified]

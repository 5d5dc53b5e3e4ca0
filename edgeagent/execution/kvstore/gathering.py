"""Turns a chain of nodes into one block, in memory and on disk: planned and adopted by the store, run in a thread."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeagent.execution.kvstore.folder import KvFolder
from edgeagent.execution.kvstore.layout import Header
from edgeagent.execution.kvstore.rows import Piece, gather
from edgeagent.execution.kvstore.tree import Block, Node, Run, Step, path_to, runs


@dataclass(frozen=True, slots=True)
class Gathered:
    """What came of it: a memory file, and a file or why there is none."""

    memory: int
    name: str | None = None
    file_bytes: int = 0
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class Gathering:
    """Cells `[header.first, len(header.path))` from pieces whose descriptors it owns until it has run."""

    header: Header
    pieces: Sequence[Piece]
    folder: KvFolder | None

    def run(self) -> Gathered:
        """Blocking. Raises OSError when the rows cannot be had; one of the disk is in the result."""
        try:
            memory = gather(self.pieces, self.header.planes)
        finally:
            self.close()
        if self.folder is None:
            return Gathered(memory)
        try:
            name, file_bytes = self.folder.write(self.header, memory)
        except OSError as error:
            return Gathered(memory, error=error)
        return Gathered(memory, name, file_bytes)

    def close(self) -> None:
        for piece in self.pieces:
            os.close(piece.descriptor)

    def block(self, gathered: Gathered) -> Block:
        header = self.header
        return Block(
            header.key, header.first, header.num_cells, header.planes, 0.0,
            gathered.memory, gathered.name, gathered.file_bytes, is_gathered=True,
        )  # fmt: skip


def plan(chain: Sequence[Node], from_disk: KvFolder | None, to_disk: KvFolder | None) -> Gathering | None:
    """None when the chain is no longer what it was. Raises OSError when a descriptor cannot be had."""
    if any(node.parent is None for node in chain) or any(b.parent is not a for a, b in pairwise(chain)):
        return None
    block = chain[0].block
    header = Header(block.key, path_to(chain[-1]), chain[0].first, block.planes, ())
    pieces: list[Piece] = []
    with contextlib.ExitStack() as undo:
        for run in runs([Step(node, node.num_cells) for node in chain]):
            descriptor = open_block(run.block, from_disk)
            undo.callback(os.close, descriptor)
            pieces.append(_piece(run, descriptor))
        undo.pop_all()
    return Gathering(header, pieces, to_disk)


def open_block(block: Block, folder: KvFolder | None) -> int:
    """A descriptor of a block's rows, from memory where they are there. Raises OSError."""
    if block.memory is not None:
        return os.dup(block.memory)
    if block.name is None or folder is None:
        raise FileNotFoundError(f"the rows of cells {block.first} and on are nowhere")
    return folder.open(block.name)


def _piece(run: Run, descriptor: int) -> Piece:
    return Piece(descriptor, run.block.num_cells, run.skip, run.take)

"""Moves rows between block forms. Blocking; for a thread when the rows are many.

A block is plane after plane, each `num_cells` rows long, so that neighbouring blocks of a path become one by
interleaving their planes, and a part of a block is a slice of each plane.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

MAX_VECTORS = 1024
"""IOV_MAX of Linux: buffers one read may fill."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Piece:
    """Cells `[skip, skip + take)` of the `num_cells` whose rows start at offset 0 of an open file."""

    descriptor: int
    num_cells: int
    skip: int
    take: int

    @property
    def is_whole(self) -> bool:
        return self.take == self.num_cells


def gather(pieces: Sequence[Piece], planes: Sequence[int]) -> int:
    """The descriptor of one memory file with the cells of all pieces in order. Raises OSError, also for a short piece.

    A single whole piece is not copied.
    """
    if len(pieces) == 1 and pieces[0].is_whole:
        return os.dup(pieces[0].descriptor)
    num_cells = sum(piece.take for piece in pieces)
    descriptor = os.memfd_create("edgeagent-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, num_cells * sum(planes))
        _fill(descriptor, pieces, planes, num_cells)
    except BaseException:
        os.close(descriptor)
        raise
    seal(descriptor)
    return descriptor


def seal(descriptor: int) -> None:
    """Let nobody who has the memory file change it any more, where whoever made it allowed that."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def _fill(descriptor: int, pieces: Sequence[Piece], planes: Sequence[int], num_cells: int) -> None:
    target = memoryview(mmap.mmap(descriptor, num_cells * sum(planes)))
    done = 0
    for piece in pieces:
        slices: list[memoryview] = []
        start = 0
        for row_bytes in planes:
            begin = start + done * row_bytes
            slices.append(target[begin : begin + piece.take * row_bytes])
            start += num_cells * row_bytes
        _read(piece, planes, slices)
        done += piece.take


def _read(piece: Piece, planes: Sequence[int], slices: Sequence[memoryview]) -> None:
    if piece.is_whole:
        offset = 0
        for index in range(0, len(slices), MAX_VECTORS):
            offset += _read_exactly(piece.descriptor, slices[index : index + MAX_VECTORS], offset)
        return
    start = 0
    for row_bytes, target in zip(planes, slices, strict=True):
        _read_exactly(piece.descriptor, [target], start + piece.skip * row_bytes)
        start += piece.num_cells * row_bytes


def _read_exactly(descriptor: int, slices: Sequence[memoryview], offset: int) -> int:
    wanted = sum(len(target) for target in slices)
    if os.preadv(descriptor, slices, offset) != wanted:
        raise OSError(errno.EIO, "rows end early")
    return wanted

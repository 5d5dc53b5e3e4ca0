import fcntl
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.kvstore.rows import Piece, gather
from tests.execution.kvstore.rows import KEY, block, memory_file

planes = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


@given(planes, st.data())
def test_gathered_pieces_are_one_block(planes: tuple[int, ...], data: st.DataObject) -> None:
    path = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=20))
    borders = sorted(data.draw(st.sets(st.integers(1, len(path)))) | {0, len(path)})
    pieces: list[Piece] = []
    for first, end in pairwise(borders):
        before, after = data.draw(st.integers(0, first)), data.draw(st.integers(end, len(path)))
        rows = memory_file(block(KEY, path[:after], before, planes) + b"what a file has after its rows")
        pieces.append(Piece(rows, after - before, first - before, end - first))
    gathered = gather(pieces, planes)
    whole = block(KEY, path, 0, planes)
    assert os.pread(gathered, len(whole), 0) == whole
    for descriptor in (gathered, *(piece.descriptor for piece in pieces)):
        os.close(descriptor)


def test_more_planes_than_one_read_takes() -> None:
    planes = tuple(1 + plane % 3 for plane in range(2500))
    path = [1, 2, 3, 4]
    pieces = [Piece(memory_file(block(KEY, path[: end + 1], end, planes)), 1, 0, 1) for end in range(4)]
    gathered = gather(pieces, planes)
    assert os.pread(gathered, 10**6, 0) == block(KEY, path, 0, planes)
    for descriptor in (gathered, *(piece.descriptor for piece in pieces)):
        os.close(descriptor)


def test_gathered_rows_are_sealed_and_short_pieces_refused() -> None:
    pieces = [Piece(memory_file(bytes(8)), 2, 0, 2), Piece(memory_file(bytes(8)), 2, 0, 2)]
    gathered = gather(pieces, (1, 3))
    assert fcntl.fcntl(gathered, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    os.close(gathered)
    os.truncate(pieces[1].descriptor, 7)
    before = os.dup(0)
    os.close(before)
    with pytest.raises(OSError, match="end early"):
        gather(pieces, (1, 3))
    after = os.dup(0)
    assert after == before  # nothing stayed open
    for descriptor in (after, *(piece.descriptor for piece in pieces)):
        os.close(descriptor)

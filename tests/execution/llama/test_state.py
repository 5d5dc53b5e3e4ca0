import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.state import (
    Part,
    Plane,
    SequenceState,
    assemble,
    cut,
    cut_block,
    front_layers,
    join,
    parse,
    shape_of,
    stack,
)

ROW_BYTES = (4, 6)


def state(num_cells: int, streams: int = 1) -> SequenceState:
    planes = []
    for i in range(4):
        size = ROW_BYTES[i % 2]
        rows = bytes((i * 50 + cell) % 256 for cell in range(num_cells) for _ in range(size))
        planes.append(Plane(8, size, memoryview(rows)))
    return SequenceState(0xABCD, 0, streams, num_cells, tuple(planes))


def blob(made: SequenceState) -> bytes:
    return bytes(join(made, made.num_cells, []))


@given(st.integers(1, 20), st.integers(1, 4))
def test_state_round_trips(cells: int, streams: int) -> None:
    assert parse(blob(state(cells, streams))) == state(cells, streams)


@given(st.integers(2, 30), st.data())
def test_wanted_cells_of_larger_parts_make_the_whole(cells: int, data: st.DataObject) -> None:
    whole, parts, done = state(cells), [], 0
    while done < cells:
        take = data.draw(st.integers(1, cells - done))
        skip, more = data.draw(st.integers(0, done)), data.draw(st.integers(0, cells - done - take))
        first, end = done - skip, done + take + more
        parts.append(Part(memoryview(cut_block(whole, first, end)), end - first, skip, take))
        done += take
    assert assemble(state(1), parts) == blob(whole)


@pytest.mark.parametrize(("skip", "take"), [(-1, 2), (2, 3), (4, 1)])
def test_cells_outside_of_a_part_are_refused(skip: int, take: int) -> None:
    made = state(4)
    with pytest.raises(EngineError, match="not in a block"):
        assemble(made, [Part(memoryview(cut_block(made, 0, 4)), 4, skip, take)])


@given(st.integers(1, 30), st.integers(1, 8), st.data())
def test_front_here_and_blocks_from_there_join_to_the_whole(cells: int, chunk: int, data: st.DataObject) -> None:
    whole = state(cells)
    kept = data.draw(st.integers(0, (cells - 1) // chunk)) * chunk
    ranges = [(first, min(first + chunk, cells)) for first in range(kept, cells, chunk)]
    blocks = [(end - first, cut_block(whole, first, end)) for first, end in ranges]
    assert join(state(cells), kept, blocks) == blob(whole)


def test_state_cut_anywhere_is_an_engine_error() -> None:
    whole = blob(state(3))
    for length in range(len(whole)):
        with pytest.raises(EngineError):
            parse(whole[:length])


@given(st.integers(1, 4), st.data())
def test_layout_is_known_by_a_state_of_one_cell_in_whichever_stream(streams: int, data: st.DataObject) -> None:
    made, own = state(1, streams), data.draw(st.integers(0, streams - 1))
    whole = blob(made)
    behind = 4 * (streams - 1)
    moved = whole[:12] + bytes(4 * own) + whole[12 : len(whole) - behind] + bytes(behind - 4 * own)
    assert shape_of(moved, 8) == made
    with pytest.raises(EngineError, match="unknown way"):
        shape_of(moved, 1)


def test_every_byte_that_is_no_row_is_looked_at() -> None:
    """All but the magic number, which the engine alone knows."""
    whole = blob(state(1))
    rows = set[int]()
    at = 36  # head, count, cell, part
    for i in range(4):
        rows |= set(range(at + 12, at + 12 + ROW_BYTES[i % 2]))
        at += 12 + ROW_BYTES[i % 2]
    for i in set(range(4, len(whole))) - rows:
        for bit in range(8):
            changed = bytearray(whole)
            changed[i] ^= 1 << bit
            with pytest.raises(EngineError):
                shape_of(bytes(changed), 8)


OTHER_LAYOUTS: dict[str, Callable[[bytes], bytes]] = {
    "a cell has an extension": lambda whole: whole[:24] + bytes(8) + whole[24:],
    "a cell names its token": lambda whole: whole[:24] + struct.pack("<i", 7) + whole[24:],
    "no sequence in the head": lambda whole: whole[:4] + whole[8:],
    "a version in the head": lambda whole: whole[:4] + struct.pack("<I", 3) + whole[4:],
    "layers before transposition": lambda whole: whole[:28] + whole[32:36] + whole[28:32] + whole[36:],
    "row sizes of 32 bits": lambda whole: whole[:44] + whole[48:],
    "row sizes before types": lambda whole: whole[:36] + whole[40:48] + whole[36:40] + whole[48:],
    "a checksum at the end": lambda whole: whole + bytes(4),
    "two cells": lambda _whole: blob(state(2)),
}


@pytest.mark.parametrize("change", OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS.keys())
def test_layout_of_an_engine_nobody_knows_is_refused(change: Callable[[bytes], bytes]) -> None:
    whole = blob(state(1))
    assert shape_of(whole, 8) == state(1)
    with pytest.raises(EngineError):
        shape_of(change(whole), 8)


@pytest.mark.parametrize("change", [-1, 1])
def test_block_of_a_wrong_size_is_refused(change: int) -> None:
    made = state(4)
    block = cut_block(made, 2, 4)
    wrong = block[:change] if change < 0 else block + b"x"
    with pytest.raises(EngineError, match="cells has"):
        join(made, 2, [(2, wrong)])


def part_of(whole: SequenceState, first: int, end: int) -> SequenceState:
    """Of these cells alone, as an engine gives it."""
    planes = zip(whole.planes, cut(whole, first, end), strict=True)
    return replace(whole, num_cells=end - first, planes=tuple(replace(plane, rows=rows) for plane, rows in planes))


@given(st.integers(1, 20), st.data())
def test_layers_of_two_halves_stack_to_the_whole_block(cells: int, data: st.DataObject) -> None:
    whole = state(cells)
    first = data.draw(st.integers(0, cells - 1))
    end = data.draw(st.integers(first + 1, cells))
    behind = replace(whole, planes=(whole.planes[1], whole.planes[3]))
    block, row_bytes = cut_block(behind, first, end), [p.row_bytes for p in behind.planes]
    front = front_layers(part_of(whole, first, end), 1)
    assert stack(front, block, row_bytes) == cut_block(whole, first, end)
    with pytest.raises(EngineError, match="cells has"):
        stack(front, block + b"x", row_bytes)

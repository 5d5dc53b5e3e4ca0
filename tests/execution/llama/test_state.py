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

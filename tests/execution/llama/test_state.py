import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.state import Plane, SequenceState, build, cut_block, join, parse

ROW_BYTES = (4, 6)


def state(num_cells: int) -> SequenceState:
    planes = []
    for i in range(4):
        size = ROW_BYTES[i % 2]
        rows = bytes((i * 50 + cell) % 256 for cell in range(num_cells) for _ in range(size))
        planes.append(Plane(8, size, memoryview(rows)))
    return SequenceState(0xABCD, 0, num_cells, tuple(planes))


def blob(made: SequenceState) -> bytes:
    return build(made, [bytes(p.rows) for p in made.planes], made.num_cells)


@given(st.integers(0, 20))
def test_state_round_trips(cells: int) -> None:
    assert parse(blob(state(cells))) == state(cells)


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

"""Hidden states as they travel: exact in f32, near in the others, and nothing wrong gets in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.core.stages import HIDDEN_BLOCK, HIDDEN_TYPES, HiddenType, hidden_row_bytes
from edgeagent.execution.llama.hidden import FloatArray, decode, encode

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 200))
VALUES = st.floats(-(2.0**15), 2.0**15, width=32)
ROWS = SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=VALUES))


@given(ROWS, st.sampled_from(HIDDEN_TYPES))
def test_rows_come_back_as_near_as_their_type_promises(rows: FloatArray, hidden: HiddenType) -> None:
    data = encode(rows, hidden)
    assert len(data) == len(rows) * hidden_row_bytes(hidden, rows.shape[1])
    back = decode(data, len(rows), rows.shape[1], hidden)
    if hidden == "f32":
        assert np.array_equal(back, rows)
    elif hidden == "f16":
        assert np.allclose(back, rows, rtol=2**-11, atol=2**-25)
    else:
        for first in range(0, rows.shape[1], HIDDEN_BLOCK):
            block = slice(first, first + HIDDEN_BLOCK)
            largest = np.abs(rows[:, block]).max(axis=1, keepdims=True)
            # half a step, half a bit of the scale, and scales below the smallest f16
            assert (np.abs(back[:, block] - rows[:, block]) <= largest * (0.5 / 127 + 2**-10) + 2**-17).all()


@given(ROWS, st.sampled_from(HIDDEN_TYPES), st.data())
def test_rows_are_cut_and_joined_anywhere(rows: FloatArray, hidden: HiddenType, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows)))
    assert encode(rows, hidden) == encode(rows[:at], hidden) + encode(rows[at:], hidden)


@pytest.mark.parametrize("hidden", HIDDEN_TYPES)
@pytest.mark.parametrize("change", [-1, 1])
def test_rows_of_a_wrong_size_are_refused(hidden: HiddenType, change: int) -> None:
    data = encode(np.ones((2, 65), np.float32), hidden)
    with pytest.raises(RequestError, match="2 hidden states in"):
        decode(data[:change] if change < 0 else data + b"x", 2, 65, hidden)


@pytest.mark.parametrize("hidden", HIDDEN_TYPES)
def test_what_is_no_number_neither_leaves_nor_enters(hidden: HiddenType) -> None:
    with pytest.raises(EngineError, match="is no number"):
        encode(np.array([[1, np.nan]], np.float32), hidden)
    poison = np.float32("nan").tobytes() if hidden == "f32" else np.float16("inf").tobytes()
    with pytest.raises(RequestError, match="is no number"):
        decode(poison + bytes(hidden_row_bytes(hidden, 8) - len(poison)), 1, 8, hidden)


@pytest.mark.parametrize(("hidden", "value"), [("f32", 1e20), ("f16", 65600.0), ("int8", 65600.0 * 127)])
def test_value_beyond_a_types_range_is_an_error_not_infinity(hidden: HiddenType, value: float) -> None:
    with pytest.raises(EngineError, match=f"beyond the range of {hidden}"):
        encode(np.array([[value]], np.float32), hidden)


def test_state_whose_square_is_infinite_does_not_enter() -> None:
    with pytest.raises(RequestError, match="no state's"):
        decode(np.array([[1e20, 1]], "<f4").tobytes(), 1, 2, "f32")

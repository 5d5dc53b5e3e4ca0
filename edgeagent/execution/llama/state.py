"""llama.cpp's sequence state as arrays of cache rows, and back. Pure: bytes in, bytes out.

Layout of the blob (llama-kv-cache.cpp, `state_write`, as of llama-cpp-python 0.3.36; little endian):
u32 magic, i32 sequence id, u32 streams, u32 cells, per cell (i32 position, u32 n, n x i32 sequence id),
u32 v_transposed, u32 layers, per layer K (i32 type, u64 row bytes, rows), per layer V the same.

The parser behind `llama_state_seq_set_data` trusts its input, so nothing that came over a network reaches it:
only row bytes of exactly the right number are taken, and every header is written here.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.core.errors import EngineError

_HEAD = struct.Struct("<IiII")
_CELL = struct.Struct("<iI")
_PART = struct.Struct("<II")
_ROWS = struct.Struct("<iQ")


@dataclass(frozen=True, slots=True)
class Plane:
    """K or V of one layer: `rows` holds one row of `row_bytes` a cell, in cell order."""

    ggml_type: int
    row_bytes: int
    rows: memoryview


@dataclass(frozen=True, slots=True)
class SequenceState:
    """A single-sequence cache: `planes` are K of every layer, then V of every layer."""

    magic: int
    sequence: int
    num_cells: int
    planes: tuple[Plane, ...]

    @property
    def bytes_per_cell(self) -> int:
        return sum(plane.row_bytes for plane in self.planes)


def parse(blob: bytes) -> SequenceState:
    """Read a blob that our own engine wrote. Raises EngineError on a layout this version does not know."""
    view = memoryview(blob)
    try:
        return _parse(view)
    except struct.error as error:
        raise EngineError(f"the engine's KV state ends early ({error}); this llama.cpp is not supported") from None


def _parse(view: memoryview) -> SequenceState:
    magic, sequence, streams, num_cells = _HEAD.unpack_from(view, 0)
    if streams != 1:
        raise EngineError(f"a KV state of {streams} streams is not supported; use one sequence a context")
    offset = _HEAD.size
    for _ in range(num_cells):
        _, num_sequences = _CELL.unpack_from(view, offset)
        offset += _CELL.size + 4 * num_sequences
    transposed, layers = _PART.unpack_from(view, offset)
    if transposed:
        raise EngineError("a KV state with transposed values cannot be exchanged; turn flash attention on")
    offset += _PART.size
    planes: list[Plane] = []
    for _ in range(2 * layers):
        ggml_type, row_bytes = _ROWS.unpack_from(view, offset)
        offset += _ROWS.size
        planes.append(Plane(ggml_type, row_bytes, view[offset : offset + row_bytes * num_cells]))
        offset += row_bytes * num_cells
    if offset != len(view):
        raise EngineError(f"a KV state of {len(view)} bytes parsed to {offset}; this llama.cpp is not supported")
    return SequenceState(magic, sequence, num_cells, tuple(planes))


def build(state: SequenceState, rows: Sequence[bytes], num_cells: int) -> bytes:
    """A blob of `num_cells` cells at positions 0… with these rows for `state.planes`, in order.

    Raises EngineError unless every plane has exactly `num_cells` rows of its size.
    """
    parts = [_HEAD.pack(state.magic, state.sequence, 1, num_cells)]
    parts += [_CELL.pack(position, 1) + struct.pack("<i", state.sequence) for position in range(num_cells)]
    parts.append(_PART.pack(0, len(state.planes) // 2))
    for plane, data in zip(state.planes, rows, strict=True):
        if len(data) != plane.row_bytes * num_cells:
            raise EngineError(f"a KV plane has {len(data)} bytes, not {plane.row_bytes * num_cells}")
        parts += [_ROWS.pack(plane.ggml_type, plane.row_bytes), data]
    return b"".join(parts)


def cut_block(state: SequenceState, first: int, end: int) -> bytes:
    """The rows of cells `[first, end)`, plane after plane: one block as it travels."""
    return b"".join(bytes(p.rows[first * p.row_bytes : end * p.row_bytes]) for p in state.planes)


def join(state: SequenceState, num_kept: int, blocks: Sequence[tuple[int, bytes]]) -> bytes:
    """A blob with the first `num_kept` cells of `state`, then blocks of `(cells, bytes)` in order.

    Raises EngineError unless every block has exactly its size.
    """
    for num_cells, block in blocks:
        if len(block) != num_cells * state.bytes_per_cell:
            raise EngineError(f"a block of {num_cells} cells has {len(block)} bytes, not their {state.bytes_per_cell}")
    rows: list[bytes] = []
    start = 0
    for plane in state.planes:
        parts = [bytes(plane.rows[: num_kept * plane.row_bytes])]
        parts += [block[start * n : (start + plane.row_bytes) * n] for n, block in blocks]
        rows.append(b"".join(parts))
        start += plane.row_bytes
    return build(state, rows, num_kept + sum(n for n, _ in blocks))

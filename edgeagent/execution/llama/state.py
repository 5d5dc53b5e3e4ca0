"""llama.cpp's sequence state as arrays of cache rows, and back. Pure: bytes in, bytes out.

Layout of the blob (llama-kv-cache.cpp, `state_write`, the same in all of `execution.releases`; little endian): u32
magic, i32 sequence id, u32 streams; per stream u32 cells (0 in all but the sequence's own, and nothing more then), per
cell (i32 position, u32 n, n x i32 sequence id), u32 v_transposed, u32 layers, per layer K (i32 type, u64 row bytes,
rows), per layer V the same. On reading it does not matter which of the streams is the one with cells.

The parser behind `llama_state_seq_set_data` trusts its input, so nothing that came over a network reaches it:
only row bytes of exactly the right number are taken, and every header is written here.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeagent.core.errors import EngineError

_HEAD = struct.Struct("<IiI")
_COUNT = struct.Struct("<I")
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
    """One sequence's cache: `planes` are K of every layer, then V of every layer."""

    magic: int
    sequence: int
    streams: int
    num_cells: int
    planes: tuple[Plane, ...]

    @property
    def bytes_per_cell(self) -> int:
        return sum(plane.row_bytes for plane in self.planes)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of `num_cells` cells, plane after plane; cells `[skip, skip + take)` of them are wanted."""

    rows: memoryview
    num_cells: int
    skip: int
    take: int


def parse(blob: bytes | memoryview) -> SequenceState:
    """Read a blob that our own engine wrote. Raises EngineError on a layout this version does not know."""
    view = memoryview(blob)
    try:
        return _parse(view)
    except struct.error as error:
        raise EngineError(f"the engine's KV state ends early ({error}); this llama.cpp is not supported") from None


def _parse(view: memoryview) -> SequenceState:
    magic, sequence, streams = _HEAD.unpack_from(view, 0)
    offset, num_cells = _HEAD.size, 0
    planes: tuple[Plane, ...] = ()
    for _ in range(streams):
        (count,) = _COUNT.unpack_from(view, offset)
        offset += _COUNT.size
        if count and num_cells:
            raise EngineError("a KV state with cells in two streams is not one sequence's; this llama.cpp is unknown")
        if count:
            num_cells = count
            planes, offset = _parse_stream(view, offset, count)
    if offset != len(view):
        raise EngineError(f"a KV state of {len(view)} bytes parsed to {offset}; this llama.cpp is not supported")
    return SequenceState(magic, sequence, streams, num_cells, planes)


def shape_of(blob: bytes | memoryview, ggml_type: int) -> SequenceState:
    """Of a blob with one cell that our own engine has just written, with a cache of this type: what `parse` gives.

    Raises EngineError unless the same rows, laid out by this module, are that very blob: then it reads every byte as
    the engine means it, and the engine will read what is laid out here.
    """
    state = parse(blob)
    written = bytes(single_stream(memoryview(bytearray(blob))))
    is_ours = state.num_cells == 1 and join(replace(state, streams=1), 1, []) == written
    if not is_ours or any(plane.ggml_type != ggml_type for plane in state.planes):
        raise EngineError("the engine lays out its KV state in an unknown way; this llama.cpp is not supported")
    return state


def single_stream(blob: memoryview) -> memoryview:
    """One sequence's blob as a context of a single sequence reads it, whatever the layout of its rows: the counts of
    other streams, which are 0, left out. The head is rewritten in place; the cells are not copied.

    Raises EngineError where two streams have cells.
    """
    magic, sequence, streams = _HEAD.unpack_from(blob, 0)
    ahead = 0
    while ahead < streams - 1 and not _COUNT.unpack_from(blob, _HEAD.size + _COUNT.size * ahead)[0]:
        ahead += 1
    begin, end = _COUNT.size * ahead, len(blob) - _COUNT.size * (streams - 1 - ahead)
    if any(blob[end:]):
        raise EngineError("a KV state with cells in two streams is not one sequence's; this llama.cpp is unknown")
    _HEAD.pack_into(blob, begin, magic, sequence, 1)
    return blob[begin:end]


def _parse_stream(view: memoryview, offset: int, num_cells: int) -> tuple[tuple[Plane, ...], int]:
    """The planes, and the offset behind them."""
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
        if row_bytes * num_cells > len(view) - offset:
            raise EngineError(f"the engine's KV state has rows of {row_bytes} bytes; this llama.cpp is not supported")
        planes.append(Plane(ggml_type, row_bytes, view[offset : offset + row_bytes * num_cells]))
        offset += row_bytes * num_cells
    return tuple(planes), offset


def cut(state: SequenceState, first: int, end: int) -> list[memoryview]:
    """The rows of cells `[first, end)`, plane after plane, not copied."""
    return [p.rows[first * p.row_bytes : end * p.row_bytes] for p in state.planes]


def cut_block(state: SequenceState, first: int, end: int) -> bytes:
    """The rows of cells `[first, end)`, plane after plane: one block as it travels."""
    return b"".join(cut(state, first, end))


def front_layers(state: SequenceState, num_layers: int | None) -> SequenceState:
    """The same cells of its first `num_layers` layers alone (None: of all)."""
    if num_layers is None:
        return state
    half = len(state.planes) // 2
    return replace(state, planes=state.planes[:num_layers] + state.planes[half : half + num_layers])


def stack(front: SequenceState, block: bytes, row_bytes: Sequence[int]) -> bytes:
    """One block of the cells of `front`, of all layers: behind its own those of `block`.

    `row_bytes` are the block's planes: K of each layer, then V. Raises EngineError unless it has exactly its size.
    """
    num_cells, half = front.num_cells, len(row_bytes) // 2
    if len(block) != num_cells * sum(row_bytes):
        expected = num_cells * sum(row_bytes)
        raise EngineError(f"a block of {num_cells} cells has {len(block)} bytes, not {expected}")
    own = cut(front, 0, num_cells)
    own_half, keys = len(own) // 2, num_cells * sum(row_bytes[:half])
    return b"".join([*own[:own_half], block[:keys], *own[own_half:], block[keys:]])


def join(state: SequenceState, num_kept: int, blocks: Sequence[tuple[int, bytes]]) -> bytearray:
    """A blob with the first `num_kept` cells of `state`, then blocks of `(cells, bytes)` in order.

    Raises EngineError unless every block has exactly its size.
    """
    parts = [Part(memoryview(block), num_cells, 0, num_cells) for num_cells, block in blocks]
    return assemble(state, parts, num_kept)


def assemble(state: SequenceState, parts: Sequence[Part], num_kept: int = 0) -> bytearray:
    """A blob with the first `num_kept` cells of `state`, then the wanted cells of `parts`, at positions 0…

    Only sizes are believed: raises EngineError unless every part has exactly its own.
    """
    for part in parts:
        if len(part.rows) != part.num_cells * state.bytes_per_cell:
            raise EngineError(
                f"a block of {part.num_cells} cells has {len(part.rows)} bytes, not their {state.bytes_per_cell}"
            )
        if not 0 <= part.skip <= part.skip + part.take <= part.num_cells:
            raise EngineError(f"cells {part.skip} to {part.skip + part.take} are not in a block of {part.num_cells}")
    num_cells = num_kept + sum(part.take for part in parts)
    blob = bytearray(_head(state, num_cells))
    start = 0
    for plane in state.planes:
        size = plane.row_bytes
        blob += _ROWS.pack(plane.ggml_type, size)
        blob += plane.rows[: num_kept * size]
        for part in parts:
            begin = start * part.num_cells + part.skip * size
            blob += part.rows[begin : begin + part.take * size]
        start += size
    blob += bytes(_COUNT.size * (state.streams - 1))
    return blob


def _head(state: SequenceState, num_cells: int) -> bytes:
    """What stands before the first plane: the cells at positions 0 to `num_cells`, all of them in the first stream."""
    cells = b"".join(_CELL.pack(i, 1) + struct.pack("<i", state.sequence) for i in range(num_cells))
    head = _HEAD.pack(state.magic, state.sequence, state.streams) + _COUNT.pack(num_cells)
    return head + cells + _PART.pack(0, len(state.planes) // 2)

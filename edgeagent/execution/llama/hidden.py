"""Hidden states as they travel, and back: f32 exactly, f16, or int8 with an f16 scale for each 64 values.

A token's row is complete in itself, so rows can be cut and joined anywhere. In `int8` it is the scales of its blocks,
then its values; the last block may be shorter. Little endian, as both ends compute.
"""

import numpy as np
import numpy.typing as npt

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.core.stages import HIDDEN_BLOCK, HiddenType, hidden_row_bytes

FloatArray = npt.NDArray[np.float32]

LARGEST = 127
HALF_MAX = 65504.0
"""The largest number an f16 holds."""
STATE_MAX = HALF_MAX * LARGEST
"""No model's states come near it (758 is a large one), and its square does not overflow: more is sent to do harm."""


def encode(rows: FloatArray, hidden: HiddenType) -> bytes:
    """(tokens, width) as bytes. Raises EngineError for values that the type cannot hold."""
    if not np.isfinite(rows).all():
        raise EngineError("a hidden state is no number; use another plan for this model")
    limit = HALF_MAX if hidden == "f16" else STATE_MAX
    if rows.size and float(np.abs(rows).max()) > limit:
        raise EngineError(f"a hidden state is beyond the range of {hidden}; use another wire or plan for this model")
    if hidden == "f32":
        return np.ascontiguousarray(rows, "<f4").tobytes()
    return rows.astype("<f2").tobytes() if hidden == "f16" else _encode_int8(rows)


def decode(data: bytes, num_tokens: int, width: int, hidden: HiddenType) -> FloatArray:
    """(tokens, width) from bytes. Raises RequestError unless they are exactly so many finite rows."""
    expected = num_tokens * hidden_row_bytes(hidden, width)
    if len(data) != expected:
        raise RequestError(f"{num_tokens} hidden states in {hidden} have {expected} bytes, not {len(data)}; send them")
    with np.errstate(invalid="ignore"):  # what is no number is found below
        if hidden == "int8":
            rows = _decode_int8(data, num_tokens, width)
        else:
            kind = "<f4" if hidden == "f32" else "<f2"
            rows = np.frombuffer(data, kind).reshape(num_tokens, width).astype(np.float32)
    if not np.isfinite(rows).all() or (rows.size and float(np.abs(rows).max()) > STATE_MAX):
        raise RequestError("a hidden state that came is no number, or no state's; ask the sender again")
    return rows


def _encode_int8(rows: FloatArray) -> bytes:
    (num_tokens, width), blocks = rows.shape, _blocks(rows)
    num_blocks = blocks.shape[1]
    scales = (np.abs(blocks).max(axis=2) / LARGEST).astype("<f2")
    divisors = scales.astype(np.float32)[:, :, None]
    values = np.divide(blocks, divisors, out=np.zeros_like(blocks), where=divisors > 0)
    whole = np.clip(np.rint(values), -LARGEST, LARGEST).astype(np.int8)
    parts = (scales.view(np.uint8), whole.view(np.uint8).reshape(num_tokens, num_blocks * HIDDEN_BLOCK)[:, :width])
    return np.concatenate(parts, axis=1).tobytes()


def _decode_int8(data: bytes, num_tokens: int, width: int) -> FloatArray:
    raw = np.frombuffer(data, np.uint8).reshape(num_tokens, hidden_row_bytes("int8", width))
    scale_bytes = hidden_row_bytes("int8", width) - width
    scales = np.ascontiguousarray(raw[:, :scale_bytes]).view("<f2").astype(np.float32)
    values = np.ascontiguousarray(raw[:, scale_bytes:]).view(np.int8).astype(np.float32)
    return values * np.repeat(scales, HIDDEN_BLOCK, axis=1)[:, :width]


def _blocks(rows: FloatArray) -> FloatArray:
    """(tokens, blocks, 64), the last block filled up with zeros."""
    num_tokens, width = rows.shape
    num_blocks = -(-width // HIDDEN_BLOCK)
    padded = np.zeros((num_tokens, num_blocks * HIDDEN_BLOCK), np.float32)
    padded[:, :width] = rows
    return padded.reshape(num_tokens, num_blocks, HIDDEN_BLOCK)

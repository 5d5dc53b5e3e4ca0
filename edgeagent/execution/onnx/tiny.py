"""A model of two nodes, written byte by byte: `y = relu(x W)`, for trying providers where no real model is at hand.

Field numbers are those of onnx.proto (github.com/onnx/onnx, `onnx/onnx.proto`); the encoding is protobuf's.
"""

import struct
from collections.abc import Sequence

ROWS, WIDTH = 4, 16
IR_VERSION, OPSET = 8, 13
FLOAT = 1
_VARINT, _BYTES = 0, 2


def model_bytes() -> bytes:
    """The serialised ModelProto."""
    graph = b"".join(
        (
            *(_text(1, node) for node in (_node("MatMul", ("x", "w"), "h"), _node("Relu", ("h",), "y"))),
            _text(2, "tiny"),
            _text(5, _weights()),
            _text(11, _value("x")),
            _text(12, _value("y")),
        )
    )
    return _number(1, IR_VERSION) + _text(7, graph) + _text(8, _number(2, OPSET))


def _weights() -> bytes:
    values = [((i * 37) % 101 - 50) / 100 for i in range(WIDTH * WIDTH)]
    shape = _number(1, WIDTH) * 2
    return shape + _number(2, FLOAT) + _text(8, "w") + _text(9, struct.pack(f"<{len(values)}f", *values))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(3, output) + _text(4, kind)


def _value(name: str) -> bytes:
    dimensions = b"".join(_text(1, _number(1, size)) for size in (ROWS, WIDTH))
    tensor = _number(1, FLOAT) + _text(2, dimensions)
    return _text(1, name) + _text(2, _text(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _text(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | _BYTES) + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])

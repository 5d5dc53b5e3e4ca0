"""A model of two nodes, written byte by byte: `y = relu(x W)`, for trying providers where no real model is at hand.

Field numbers are those of onnx.proto (github.com/onnx/onnx, `onnx/onnx.proto`); the encoding is protobuf's.
"""

import struct
from collections.abc import Sequence

from edgeagent.execution.onnx.protobuf import number, text

ROWS, WIDTH = 4, 16
IR_VERSION, OPSET = 8, 13
FLOAT = 1


def model_bytes() -> bytes:
    """The serialised ModelProto."""
    graph = b"".join(
        (
            *(text(1, node) for node in (_node("MatMul", ("x", "w"), "h"), _node("Relu", ("h",), "y"))),
            text(2, "tiny"),
            text(5, _weights()),
            text(11, _value("x")),
            text(12, _value("y")),
        )
    )
    return number(1, IR_VERSION) + text(7, graph) + text(8, number(2, OPSET))


def _weights() -> bytes:
    values = [((i * 37) % 101 - 50) / 100 for i in range(WIDTH * WIDTH)]
    shape = number(1, WIDTH) * 2
    return shape + number(2, FLOAT) + text(8, "w") + text(9, struct.pack(f"<{len(values)}f", *values))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(text(1, name) for name in inputs) + text(2, output) + text(3, output) + text(4, kind)


def _value(name: str) -> bytes:
    dimensions = b"".join(text(1, number(1, size)) for size in (ROWS, WIDTH))
    tensor = number(1, FLOAT) + text(2, dimensions)
    return text(1, name) + text(2, text(1, tensor))

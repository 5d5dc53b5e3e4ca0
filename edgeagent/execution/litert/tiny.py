"""A .tflite model of one int8 convolution, built here: NPU and TPU delegates want integers, and any runtime knows it.

Field numbers and enumerations are those of schema.fbs (github.com/tensorflow/tensorflow,
`tensorflow/compiler/mlir/lite/schema/schema.fbs`).
"""

from edgeagent.execution.litert.flatbuffer import Node, Numbers, Scalar, write

SIDE, CHANNELS, KERNEL = 8, 8, 3
INPUT_SCALE, WEIGHT_SCALE, OUTPUT_SCALE = 0.05, 0.01, 0.1
INT8, INT32 = 9, 2
CONV_2D = 3
CONV_2D_OPTIONS = 1
SAME_PADDING, RELU = 0, 1
SCHEMA = 3
_INPUT, _WEIGHTS, _BIAS, _OUTPUT = range(4)


def model_bytes() -> bytes:
    """The file's content; the same bytes at every call."""
    weights = [(i * 37) % 201 - 100 for i in range(CHANNELS * KERNEL * KERNEL * CHANNELS)]
    image, scales = [1, SIDE, SIDE, CHANNELS], INPUT_SCALE * WEIGHT_SCALE
    graph: Node = {
        0: [
            _tensor("image", image, INT8, 0, INPUT_SCALE),
            _tensor("weights", [CHANNELS, KERNEL, KERNEL, CHANNELS], INT8, 1, WEIGHT_SCALE),
            _tensor("bias", [CHANNELS], INT32, 2, scales),
            _tensor("features", image, INT8, 0, OUTPUT_SCALE),
        ],
        1: Numbers("i", [_INPUT]),
        2: Numbers("i", [_OUTPUT]),
        3: [_convolution()],
    }
    bias = [100 * i for i in range(CHANNELS)]
    model: dict[int, Node] = {
        0: Scalar("I", SCHEMA),
        1: [{0: Scalar("b", CONV_2D), 2: Scalar("i", 1), 3: Scalar("i", CONV_2D)}],
        2: [graph],
        3: "edgeagent trial",
        4: [{}, {0: Numbers("b", weights)}, {0: b"".join(value.to_bytes(4, "little") for value in bias)}],
    }
    return write(model, b"TFL3")


def _convolution() -> Node:
    return {
        1: Numbers("i", [_INPUT, _WEIGHTS, _BIAS]),
        2: Numbers("i", [_OUTPUT]),
        3: Scalar("B", CONV_2D_OPTIONS),
        4: {0: Scalar("b", SAME_PADDING), 1: Scalar("i", 1), 2: Scalar("i", 1), 3: Scalar("b", RELU)},
    }


def _tensor(name: str, shape: list[int], kind: int, buffer: int, scale: float) -> Node:
    quantization: Node = {2: Numbers("f", [scale]), 3: Numbers("q", [0])}
    return {0: Numbers("i", shape), 1: Scalar("b", kind), 2: Scalar("I", buffer), 3: name, 4: quantization}

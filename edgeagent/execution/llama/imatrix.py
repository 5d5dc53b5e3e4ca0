"""Importance matrices: the mean square of what each input channel of a weight matrix sees, on calibration text.

The quantiser weighs each weight's rounding error with it. Collected from the same nodes, and read from the same
files, as llama.cpp's tools do (tools/imatrix, common/imatrix-loader).
"""

import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.tensors import F32, FloatArray, Node
from edgeagent.execution.llama.windows import MIN_BATCH_TOKENS, Windows, cut
from edgeagent.execution.worker import Request

Matrix = dict[str, FloatArray]
"""Tensor name to mean squares: one value an input channel, for each expert in turn."""

SUMS, COUNTS = ".in_sum2", ".counts"
_Sums = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]


class Collector:
    """Sums squares of the activations that enter `blk.*` weights, in double precision."""

    def __init__(self) -> None:
        self.sums: dict[str, _Sums] = {}
        self.counts: dict[str, _Counts] = {}

    def begin(self) -> None: ...

    def wants(self, node: Node) -> bool:
        operation = node.operation
        if operation not in {"MUL_MAT", "MUL_MAT_ID"} or not node.source(0).name.startswith("blk."):
            return False
        inputs = node.source(1)
        return operation == "MUL_MAT_ID" or (inputs.shape[1] >= MIN_BATCH_TOKENS and inputs.type == F32)

    def take(self, node: Node) -> None:
        weight, inputs = node.source(0), node.source(1).read()
        columns, count = inputs.shape[-1], weight.shape[2] * weight.shape[3]
        sums = self.sums.setdefault(weight.name, np.zeros((count, columns)))
        counts = self.counts.setdefault(weight.name, np.zeros(count, np.int64))
        if sums.shape != (count, columns):
            raise EngineError(f"weight {weight.name} has inputs of different sizes; report this model")
        if node.operation == "MUL_MAT_ID":
            _add_routed(sums, counts, inputs[0], node.source(2).read_integers()[0, 0])
        elif count == 1:
            _add(sums, counts, 0, inputs.reshape(-1, columns))
        else:
            for index in np.ndindex(inputs.shape[:2]):
                _add(sums, counts, _matrix_of(index, weight), inputs[index])

    def matrix(self) -> Matrix:
        """Mean squares; 1 for an expert that no token went to, as the quantiser's own loader has it."""
        return {name: _means(self.sums[name], self.counts[name]) for name in self.sums}


def _matrix_of(index: tuple[int, ...], weight: Node) -> int:
    outer, inner = index
    return (outer % weight.shape[3]) * weight.shape[2] + inner % weight.shape[2]


def _add(sums: _Sums, counts: _Counts, row: int, inputs: FloatArray) -> None:
    sums[row] += np.square(inputs, dtype=np.float64).sum(axis=0)
    counts[row] += len(inputs)


def _add_routed(sums: _Sums, counts: _Counts, inputs: FloatArray, experts: npt.NDArray[np.int32]) -> None:
    """`inputs` (tokens, slots or 1, columns) went to `experts` (tokens, slots)."""
    squares = np.square(inputs, dtype=np.float64)
    for slot in range(experts.shape[1]):
        np.add.at(sums, experts[:, slot], squares[:, slot % squares.shape[1]])
        np.add.at(counts, experts[:, slot], 1)


def _means(sums: _Sums, counts: npt.NDArray[np.generic]) -> FloatArray:
    seen = counts.reshape(-1, 1).astype(np.float64)
    return np.where(seen > 0, sums / np.maximum(seen, 1), 1.0).astype(np.float32).reshape(-1)


def collect(request: Request, collector: Collector) -> Steps:
    """Evaluate the request's calibration text (bulk) with the model `source`, window by window."""
    p = request.params
    size = int(p["context_tokens"])
    model = Model(str(p["source"]), extra_buffers=False)
    texts = cut(model, request.bulk, size, int(p["chunks"]))
    with closing(Windows(model, window_tokens=size, threads=int(p["threads"]), observer=collector)) as windows:
        for number, tokens in enumerate(texts, 1):
            for _ in windows.evaluate(tokens):
                yield
            request.event(stage="calibrating", done=number, total=len(texts))
    llama().llama_model_free(model.handle)


def read(path: str) -> Matrix:
    """A matrix that llama.cpp's tool wrote, in its GGUF or its older form. Raises RequestError."""
    try:
        with Path(path).open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        matrix = _read_gguf(path) if is_gguf else _read_legacy(Path(path).read_bytes())
    except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
        raise RequestError(f"{path} is no importance matrix ({error}); make one with llama-imatrix") from None
    if not matrix or not all(np.isfinite(values).all() for values in matrix.values()):
        raise RequestError(f"{path} holds no usable importance matrix; make it again")
    return matrix


def _read_gguf(path: str) -> Matrix:
    from gguf import GGUFReader

    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    return {
        name: _means(np.atleast_2d(tensors[name + SUMS]).astype(np.float64), tensors[name + COUNTS]) for name in names
    }


def _read_legacy(content: bytes) -> Matrix:
    """i32 entries; each: i32 length, name, i32 calls, i32 values, the values (mean squares times calls)."""
    matrix: Matrix = {}
    (entries,) = struct.unpack_from("<i", content)
    offset = 4
    for _ in range(entries):
        (length,) = struct.unpack_from("<i", content, offset)
        name = content[offset + 4 : offset + 4 + length].decode()
        calls, count = struct.unpack_from("<ii", content, offset + 4 + length)
        offset += 12 + length
        values = np.frombuffer(content, "<f4", count, offset)
        matrix[name] = (values / max(1, calls)).astype(np.float32)
        offset += 4 * count
    return matrix

"""A look at the nodes of llama.cpp's graph while it is computed: names, operations, and values as arrays.

llama.cpp has no accessors for a node's sources, so `ggml_tensor` is laid out here as in its ggml.h (release 0.3.36 of
the bindings); `Node` compares that layout with what the library's own accessors say before anything is believed.
"""

import ctypes
import functools
import math
import struct

import numpy as np
import numpy.typing as npt

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.library import ggml

FloatArray = npt.NDArray[np.float32]

MAX_DIMS, MAX_SOURCES, MAX_NAME, OP_PARAM_BYTES = 4, 10, 64, 64
F32, F16, Q4_0, Q8_0, I32 = 0, 1, 2, 8, 26
"""ggml type numbers (ggml.h, `enum ggml_type`)."""
BLOCK = 32
"""Values that share a scale in Q4_0 and Q8_0 (ggml-common.h): an f16, then their nibbles or bytes."""


class _GgmlTensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * MAX_DIMS),
        ("nb", ctypes.c_size_t * MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (OP_PARAM_BYTES // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * MAX_NAME),
    )


NAME_OFFSET = int(_GgmlTensor.name.offset)


@functools.cache
def _ggml() -> ctypes.CDLL:
    lib = ggml()
    lib.ggml_get_name.restype = ctypes.c_void_p
    lib.ggml_op_name.restype = ctypes.c_char_p
    lib.ggml_nelements.restype = ctypes.c_int64
    lib.ggml_nbytes.restype = ctypes.c_size_t
    for function in (lib.ggml_get_name, lib.ggml_nelements, lib.ggml_nbytes):
        function.argtypes = [ctypes.c_void_p]
    lib.ggml_op_name.argtypes = [ctypes.c_int]
    lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    lib.ggml_backend_tensor_get.restype = None
    return lib


class Node:
    """One tensor of the graph; valid only inside the callback that got its address."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._tensor = _GgmlTensor.from_address(address)

    @property
    def name(self) -> str:
        return bytes(self._tensor.name).decode(errors="replace")

    @property
    def operation(self) -> str:
        """ggml's name of it, for instance `MUL_MAT`."""
        return bytes(_ggml().ggml_op_name(self._tensor.op)).decode()

    @property
    def type(self) -> int:
        return int(self._tensor.type)

    @property
    def shape(self) -> tuple[int, ...]:
        """Four sizes, innermost first, as ggml counts them."""
        return tuple(self._tensor.ne)

    @property
    def float_parameters(self) -> tuple[float, ...]:
        """The operation's parameters, those that are f32 among them."""
        return struct.unpack(f"<{OP_PARAM_BYTES // 4}f", bytes(self._tensor.op_params))

    def source(self, index: int) -> "Node":
        return Node(int(self._tensor.src[index]))

    def check_layout(self) -> None:
        """Raises EngineError when this library lays out its tensors in another way."""
        lib = _ggml()
        is_name = lib.ggml_get_name(self._address) == self._address + NAME_OFFSET
        if not is_name or lib.ggml_nelements(self._address) != math.prod(self.shape):
            raise EngineError("this llama.cpp lays out tensors in an unknown way; install llama-cpp-python 0.3.36")

    def read(self) -> FloatArray:
        """A copy of its f32 values, shape outermost first; wherever they are, and however they are strided."""
        return self._read(F32).view(np.float32)

    def read_integers(self) -> npt.NDArray[np.int32]:
        return self._read(I32)

    def _read(self, expected: int) -> npt.NDArray[np.int32]:
        if self.type != expected:
            raise EngineError(f"tensor {self.name} has the unexpected type {self.type}; report this model")
        return np.ndarray(self.shape[::-1], np.int32, self._bytes().data, 0, self._strides)

    def _bytes(self) -> npt.NDArray[np.uint8]:
        size = int(_ggml().ggml_nbytes(self._address))
        raw = np.empty(size, np.uint8)
        _ggml().ggml_backend_tensor_get(self._address, raw.ctypes.data, 0, size)
        return raw

    @property
    def _strides(self) -> tuple[int, ...]:
        """In bytes, outermost first."""
        return tuple(self._tensor.nb)[::-1]

    def read_cells(self) -> FloatArray:
        """A copy of its values as f32, of whichever type a KV cache may have."""
        raw, shape, strides = self._bytes(), self.shape[::-1], self._strides
        if self.type in (F32, F16):
            kind = np.float32 if self.type == F32 else np.float16
            return np.ndarray(shape, kind, raw.data, 0, strides).astype(np.float32)
        if self.type not in (Q4_0, Q8_0):
            raise EngineError(f"tensor {self.name} has the unexpected type {self.type}; report this model")
        blocks = (*shape[:-1], shape[-1] // BLOCK, strides[-1])
        return _dequantized(np.ndarray(blocks, np.uint8, raw.data, 0, (*strides, 1)), self.type).reshape(shape)


def _dequantized(blocks: npt.NDArray[np.uint8], ggml_type: int) -> FloatArray:
    """Values of whole blocks, which are innermost (ggml-quants.c, `dequantize_row_q8_0` and `_q4_0`)."""
    blocks = np.ascontiguousarray(blocks)
    scales = blocks[..., :2].view(np.float16).astype(np.float32)
    if ggml_type == Q8_0:
        return blocks[..., 2:].view(np.int8) * scales
    nibbles = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
    return (nibbles.astype(np.float32) - 8) * scales

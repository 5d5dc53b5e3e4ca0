"""ONNX files, as far as an encoder needs them: reads tensors and nodes of one, writes another node by node.

Field numbers are those of onnx.proto (github.com/onnx/onnx, `onnx/onnx.proto`).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeagent.execution.onnx.protobuf import float32, number, read, text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IR_VERSION, OPSET, MICROSOFT_OPSET = 8, 17, 1
MICROSOFT = "com.microsoft"
"""Operators of ONNX Runtime's own, documented in its `docs/ContribOperators.md`."""
NOTE = "edgeagent"
"""Key of this program's note in a file's metadata."""
FLOAT, INT8, INT32, INT64 = 1, 3, 6, 7
_NUMPY = {FLOAT: "<f4", INT8: "|i1", INT64: "<i8"}
_IS_FLOAT, _IS_INT = 1, 2


@dataclass(frozen=True, slots=True)
class Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    floats: dict[str, float]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file holds; tensors of other types than the three above are left out."""

    nodes: tuple[Node, ...]
    tensors: "dict[str, NDArray[np.generic]]"

    @classmethod
    def read(cls, model: bytes) -> "Graph":
        """Raises ValueError for what is no ONNX file."""
        content = [f.content for f in read(model) if f.number == 7]
        if len(content) != 1:
            raise ValueError("there is no graph of an encoder in it")
        fields = list(read(content[0]))
        nodes = tuple(_read_node(f.content) for f in fields if f.number == 1)
        return cls(nodes, dict(t for f in fields if f.number == 5 and (t := _read_tensor(f.content))))


@dataclass(slots=True)
class Writer:
    """Collects a graph's parts; `model` are the bytes of the whole file, the same for the same calls."""

    name: str
    nodes: list[bytes] = field(default_factory=list)
    tensors: dict[str, bytes] = field(default_factory=dict)

    def node(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: float) -> str:
        """A standard operator; the name of its first output."""
        return self._node(kind, "", inputs, outputs, attributes)

    def own(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: float) -> str:
        """An operator of ONNX Runtime's own."""
        return self._node(kind, MICROSOFT, inputs, outputs, attributes)

    def tensor(self, name: str, values: "NDArray[np.generic]") -> str:
        """A constant; its name."""
        kind = next(kind for kind, dtype in _NUMPY.items() if values.dtype == dtype)
        shape = b"".join(number(1, size) for size in values.shape)
        self.tensors[name] = shape + number(2, kind) + text(8, name) + text(9, values.tobytes())
        return name

    def model(self, inputs: Sequence[str], output: str, width: int, note: str = "") -> bytes:
        """int64 inputs `[batch, sequence]`, one float output `[batch, sequence, width]`; `note` as metadata."""
        graph = b"".join(text(1, node) for node in self.nodes) + text(2, self.name)
        graph += b"".join(text(5, tensor) for tensor in self.tensors.values())
        graph += b"".join(text(11, _value(name, INT64, ("batch", "sequence"))) for name in inputs)
        graph += text(12, _value(output, FLOAT, ("batch", "sequence", width)))
        opsets = text(8, text(1, "") + number(2, OPSET)) + text(8, text(1, MICROSOFT) + number(2, MICROSOFT_OPSET))
        notes = text(14, text(1, NOTE) + text(2, note)) if note else b""
        return number(1, IR_VERSION) + text(7, graph) + opsets + notes

    def _node(
        self, kind: str, domain: str, inputs: Sequence[str], outputs: Sequence[str], attributes: dict[str, float]
    ) -> str:
        content = b"".join(text(1, name) for name in inputs) + b"".join(text(2, name) for name in outputs)
        content += text(3, outputs[0]) + text(4, kind)
        content += b"".join(text(5, _attribute(name, value)) for name, value in attributes.items())
        self.nodes.append(content + (text(7, domain) if domain else b""))
        return outputs[0]


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return text(1, name) + number(3, value) + number(20, _IS_INT)
    return text(1, name) + float32(2, value) + number(20, _IS_FLOAT)


def _value(name: str, kind: int, shape: Sequence[str | int]) -> bytes:
    sizes = (number(1, size) if isinstance(size, int) else text(2, size) for size in shape)
    dimensions = b"".join(text(1, size) for size in sizes)
    return text(1, name) + text(2, text(1, number(1, kind) + text(2, dimensions)))


def _read_node(content: memoryview) -> Node:
    fields = list(read(content))
    inputs, outputs = (tuple(f.text for f in fields if f.number == which) for which in (1, 2))
    floats = dict(a for f in fields if f.number == 5 and (a := _read_float(f.content)))
    return Node(next(f.text for f in fields if f.number == 4), inputs, outputs, floats)


def _read_float(content: memoryview) -> tuple[str, float] | None:
    parts = {f.number: f for f in read(content)}
    return (parts[1].text, struct.unpack("<f", parts[2].content)[0]) if 2 in parts else None


def _read_tensor(content: memoryview) -> "tuple[str, NDArray[np.generic]] | None":
    import numpy as np

    fields = list(read(content))
    shape = [f.value for f in fields if f.number == 1 and isinstance(f.value, int)]
    parts = {f.number: f for f in fields}
    kind = parts[2].value
    if not isinstance(kind, int) or kind not in _NUMPY or 9 not in parts:
        return None
    return parts[8].text, np.frombuffer(parts[9].content, _NUMPY[kind]).reshape(shape)

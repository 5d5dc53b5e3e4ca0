"""How much the newest tokens of a cache attend to each position before them: what tells which ones can go.

The idea is SnapKV's (arXiv:2404.14469): the end of a prompt, its observation window, tells what the answer will look
at. Attention is summed over all layers, heads and tokens of the window. Without flash attention llama.cpp computes it
as a tensor of its own; with it nobody ever sees it, so it is computed again here from what goes into that operation.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.tensors import FloatArray, Node

FLASH, SOFT_MAX = "FLASH_ATTN_EXT", "kq_soft_max-"
"""An operation of ggml; the name llama.cpp gives the other one's result, with the layer's number behind it."""


class WindowAttention:
    """Observes one batch that holds a window's tokens, behind cells whose order is that of their positions."""

    def __init__(self, layers: int, num_cells: int, num_rows: int) -> None:
        """`num_cells` with those of the window, which are the last `num_rows`."""
        self._layers = layers
        self._num_cells = num_cells
        self._num_rows = num_rows
        self._num_seen = 0
        self._sums = np.zeros(num_cells)
        self._flashes: list[_Flash] = []

    def begin(self) -> None: ...

    def wants(self, node: Node) -> bool:
        return node.operation == FLASH or node.name.startswith(SOFT_MAX)

    def take(self, node: Node) -> None:
        self._num_seen += 1
        if node.operation == FLASH:  # computed when the engine's threads are done: two pools would wait for each other
            self._flashes.append(_Flash.of(node))
        else:
            self._add(node.read()[0, :, : self._num_rows, : self._num_cells])

    def _add(self, weights: FloatArray) -> None:
        """(heads, rows, cells)"""
        self._sums += weights.sum(axis=(0, 1))

    def scores(self) -> list[float]:
        """Attention that each cell gets of the window. Raises EngineError when that of a layer was not seen."""
        for flash in self._flashes:
            self._add(flash.weights(self._num_rows, self._num_cells))
        self._flashes.clear()
        if self._num_seen != self._layers or not np.isfinite(self._sums).all():
            raise EngineError(
                f"the attention of {self._num_seen} of {self._layers} layers could be read; "
                "positions of this model cannot be pruned, ask for another reduction"
            )
        return [float(x) for x in self._sums]


@dataclass(frozen=True, slots=True)
class _Flash:
    """What goes into one layer's flash attention: queries (heads, rows, width), keys (KV heads, cells, width)."""

    queries: FloatArray
    keys: FloatArray
    scale: float
    softcap: float

    @classmethod
    def of(cls, node: Node) -> Self:
        scale, max_bias, softcap = node.float_parameters[:3]
        if max_bias:
            raise EngineError("attention that fades with distance is not pruned; ask for another reduction")
        return cls(node.source(0).read()[0], node.source(1).read_cells()[0], scale, softcap)

    def weights(self, num_rows: int, num_cells: int) -> FloatArray:
        """(heads, rows, cells): `num_rows` tokens, the last of `num_cells`."""
        num_heads, num_kv_heads = len(self.queries), len(self.keys)
        grouped = self.queries[:, :num_rows].reshape(num_kv_heads, num_heads // num_kv_heads * num_rows, -1)
        logits = np.matmul(grouped, self.keys[:, :num_cells].transpose(0, 2, 1)) * np.float32(self.scale)
        if self.softcap:
            logits = self.softcap * np.tanh(logits / self.softcap)
        return softmax(logits.reshape(num_heads, num_rows, num_cells))


def softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis, (…, rows, cells): the rows are the last cells' own, and none sees the cells behind it."""
    num_rows, num_cells = logits.shape[-2:]
    hidden: npt.NDArray[np.bool_] = np.triu(np.ones((num_rows, num_cells), np.bool_), num_cells - num_rows + 1)
    logits = np.where(hidden, np.float32(-np.inf), logits)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)

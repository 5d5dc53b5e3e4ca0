"""How much each layer changes what passes through it: Block Influence (ShortGPT, arXiv:2403.03853)."""

from contextlib import closing

import numpy as np
import numpy.typing as npt

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.tensors import FloatArray, Node
from edgeagent.execution.llama.windows import Windows, cut
from edgeagent.execution.worker import Request

NORMS = frozenset({"RMS_NORM", "NORM"})
LAYER_OUTPUT = "l_out-"
"""llama.cpp's name of the residual stream after a layer, with the layer's number behind it."""


class BlockInfluence:
    """Sums the cosine similarity between a layer's input and output over all tokens seen."""

    def __init__(self, layers: int) -> None:
        self._names = {f"{LAYER_OUTPUT}{i}": i for i in range(layers)}
        self._before: FloatArray | None = None
        self._is_entered = False
        self.similarity = np.zeros(layers)
        self.counts = np.zeros(layers, np.int64)

    def begin(self) -> None:
        self._before, self._is_entered = None, False

    def wants(self, node: Node) -> bool:
        return node.name in self._names or (not self._is_entered and node.operation in NORMS)

    def take(self, node: Node) -> None:
        layer = self._names.get(node.name)
        if layer is None:  # the first norm of a graph reads what enters the first layer
            self._before, self._is_entered = _rows(node.source(0)), True
            return
        after = _rows(node)
        if self._before is None or self._before.shape != after.shape:
            raise EngineError("the layers of this architecture cannot be told apart; it cannot be pruned")
        self.similarity[layer] += cosine(self._before, after).sum()
        self.counts[layer] += len(after)
        self._before = after

    def influence(self) -> list[float]:
        """1 - mean similarity, by layer. Raises EngineError when a layer was never seen."""
        if not self.counts.all():
            raise EngineError("llama.cpp does not name this architecture's layer outputs; it cannot be pruned")
        return [float(x) for x in 1.0 - self.similarity / self.counts]


def _rows(node: Node) -> FloatArray:
    return node.read().reshape(-1, node.shape[0])


def cosine(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """Cosine similarity, row by row."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray(np.einsum("ij,ij->i", x, y) / norms)


def influence(request: Request) -> Steps:
    """Op `influence {path, chunks, context_tokens, threads}`, text as bulk; replies `influence`, by layer."""
    p = request.params
    size = int(p["context_tokens"])
    model = Model(str(p["path"]), extra_buffers=False)
    texts = cut(model, request.bulk, size, int(p["chunks"]))
    observer = BlockInfluence(model.layers)
    with closing(Windows(model, window_tokens=size, threads=int(p["threads"]), observer=observer)) as windows:
        for number, tokens in enumerate(texts, 1):
            for _ in windows.evaluate(tokens):
                yield
            request.event(done=number, total=len(texts))
    request.reply(influence=observer.influence(), chunks=len(texts))

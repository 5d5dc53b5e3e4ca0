"""Takes the residual stream after one layer out of a graph, and ends the graph there."""

import ctypes

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.influence import LAYER_OUTPUT
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.tensors import NAME_OFFSET, FloatArray, Node


class Tap:
    """`pointer` goes into a context's parameters, and lives as long as that (see `observing.Guard`).

    It is called for every node of every batch up to the layer's output: it compares bytes of a name, and no more.
    """

    def __init__(self, layer: int) -> None:
        self._name = f"{LAYER_OUTPUT}{layer}".encode() + b"\0"
        self._rows: FloatArray | None = None
        self._failure: BaseException | None = None
        self.pointer = llama().ggml_backend_sched_eval_callback(self._call)

    def take(self) -> FloatArray:
        """The newest batch's rows, (tokens, width), once. Raises EngineError when the layer was not seen."""
        rows, failure, self._rows, self._failure = self._rows, self._failure, None, None
        if failure is not None:
            raise failure
        if rows is None:
            raise EngineError("llama.cpp does not name this architecture's layer outputs; it cannot be split")
        return rows

    def _call(self, address: int, ask: bool, _user_data: object) -> bool:
        """Asked before a node: is it wanted? Told after a wanted one: go on? The graph ends there."""
        try:
            if ask:
                return ctypes.string_at(address + NAME_OFFSET, len(self._name)) == self._name
            node = Node(address)
            node.check_layout()
            self._rows = node.read().reshape(-1, node.shape[0])
        except BaseException as error:  # noqa: BLE001  (raised again as soon as C has returned)
            self._failure = error
        return False

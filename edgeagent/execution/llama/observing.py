"""What llama.cpp calls for each node of a graph: an observer behind a guard that lets no exception into C."""

from collections.abc import Sequence
from typing import Any, Protocol

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.library import llama
from edgeagent.execution.llama.tensors import Node


class Observer(Protocol):
    """Sees every node of a batch's graph before (`wants`) and, if it wanted so, after it is computed (`take`)."""

    def begin(self) -> None:
        """A batch begins: its nodes follow, in order."""

    def wants(self, node: Node) -> bool: ...

    def take(self, node: Node) -> None: ...


class Guard:
    """`pointer` goes into a context's parameters. llama.cpp does not hold on to it: it must live as long as that.

    No exception may cross C, so the first is kept, the graph stopped, and `check` raises it.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failure: BaseException | None = None
        self._is_checked = False
        self.pointer = llama().ggml_backend_sched_eval_callback(self._call)

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _call(self, address: int, ask: bool, _user_data: object) -> bool:
        try:
            node = Node(address)
            if not self._is_checked:
                node.check_layout()
                self._is_checked = True
            if ask:
                return self._failure is None and self._observer.wants(node)
            self._observer.take(node)
        except BaseException as error:  # noqa: BLE001  (raised again as soon as C has returned)
            self._failure = self._failure or error
            return False
        return True


def decode(
    context: object, batch: Any, tokens: Sequence[int], begin: int, outputs: Sequence[bool], guard: Guard | None
) -> None:
    """Evaluate tokens at positions from `begin` on, in a context of one sequence; logits where `outputs` say so.

    Raises EngineError, and what the observer behind the `guard` raised.
    """
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i] = token
        batch.pos[i] = begin + i
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = outputs[i]
    status = llama().llama_decode(context, batch)
    if guard is not None:
        guard.check()
    if status != 0:
        raise EngineError(f"llama.cpp could not evaluate {len(tokens)} tokens (status {status}); try again")

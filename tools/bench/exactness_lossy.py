"""How far off the lossy wires between two stages are: the next token's distribution, position by position."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import harness
import numpy as np
import numpy.typing as npt
from exactness_stages import CHUNK, HIDDEN_IN, FloatArray, context

from edgeagent.core.stages import HiddenType
from edgeagent.execution import canonical
from edgeagent.execution.llama import candidates
from edgeagent.execution.llama.hidden import decode, encode
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.stage_context import Part


@dataclass(slots=True)
class Loss:
    """KL divergence of the next token's distribution from that of the exact wire, in nats, position by position."""

    kl: list[float] = field(default_factory=list)
    num_same: int = 0

    @property
    def mean_kl(self) -> float:
        return sum(self.kl) / len(self.kl)

    @property
    def top1(self) -> float:
        return self.num_same / len(self.kl)

    def add(self, exact: FloatArray, lossy: FloatArray) -> None:
        """(positions, vocabulary) logits of both."""
        p, q = _log_softmax(exact), _log_softmax(lossy)
        self.kl += [float(x) for x in (np.exp(p) * (p - q)).sum(axis=1)]
        self.num_same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())


def _log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def lose(losses: dict[HiddenType, Loss], stages: tuple[Model, Model], prompts: Sequence[list[int]]) -> None:
    """Every position of the prompts through each wire, each with a cache of its own."""
    head_model, tail_model = stages
    for number, prompt in enumerate(prompts, 1):
        with context(head_model, "q8_0", Part(after=head_model.layers - 1)) as head:
            rows = [
                head.evaluate(prompt[head.num_tokens : head.num_tokens + span])
                for span in canonical.spans(len(prompt), 0, CHUNK)
            ]
        exact = _tail_logits(tail_model, rows, "f32")
        for hidden, loss in losses.items():
            loss.add(exact, _tail_logits(tail_model, rows, hidden))
        harness.progress(f"lossy wires: {number} of {len(prompts)} documents")


def _tail_logits(model: Model, rows: Sequence[FloatArray | None], hidden: HiddenType) -> FloatArray:
    """(positions, vocabulary)"""
    made = list[FloatArray]()
    with context(model, "q8_0", HIDDEN_IN) as tail:
        for each in rows:
            assert each is not None
            tail.evaluate(decode(encode(each, hidden), len(each), model.width, hidden), all_rows=True)
            made += [candidates.logits(tail, i).copy() for i in range(len(each))]
    return np.stack(made)

"""After a worker was lost: whether and how its model is loaded again. Pure.

A worker that was doing well is loaded as it was, so that its answers go on with the same bits. Settings become safer
when it made no progress at all, or when it is lost for the second time under the same answer: one at a time, what costs
least first. A model whose workers are lost again and again without progress rests for a while.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from edgeagent.core.errors import EngineLostError
from edgeagent.execution.loss import Cause

LoadMode = Literal["map", "read"]

WINDOW_S = 60.0
MAX_LOSSES = 3
"""So many losses without progress within `WINDOW_S` are a loop."""
FIRST_REST_S, LONGEST_REST_S = 60.0, 1800.0
LEAST_CONTEXT_TOKENS = 512
OWN_FAULT = frozenset({Cause.CRASHED, Cause.STUCK})


@dataclass(frozen=True, slots=True)
class Running:
    """The settings that recovery may change, as `LoadSettings` names them."""

    extra_buffers: bool
    flash_attention: bool
    kv_type: str
    threads: int
    load_mode: LoadMode
    gpu_layers: int
    context_tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Loss:
    """One worker that is gone. `answers`: ids of the generations under way in it; `progress`: whether it had given
    a token, or finished any other operation, since it was loaded.
    """

    at_s: float
    cause: Cause
    has_progress: bool
    answers: frozenset[str] = frozenset()
    is_bus_error: bool = False
    """Ended by SIGBUS: a mapped file that can no longer be read."""


@dataclass(frozen=True, slots=True)
class Step:
    """Settings to load with, and what changed, in words for the answer's notes; empty: nothing changed.

    With `changes_bits` the exact key is another one: what is drawn from here on may differ from what would have been.
    """

    settings: Running
    change: str = ""
    changes_bits: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """What is known of a model's losses. `rests_until_s`: not loaded again before."""

    losses: tuple[Loss, ...] = ()
    rests_until_s: float = 0.0
    rest_s: float = field(default=FIRST_REST_S)
    why: str = ""

    def check(self, now_s: float) -> None:
        """Raises EngineLostError while the model rests."""
        if now_s < self.rests_until_s:
            raise EngineLostError(
                f"the engine {self.why} and is not started again for {self.rests_until_s - now_s:.0f} s; "
                "run 'edgeagent doctor', or choose another variant"
            )

    def succeeded(self) -> "History":
        """A worker made progress: earlier losses without any are no loop, and the next rest is a short one again."""
        kept = tuple(loss for loss in self.losses if loss.has_progress)
        return (
            self
            if kept == self.losses and self.rest_s == FIRST_REST_S
            else replace(self, losses=kept, rest_s=FIRST_REST_S)
        )


def recover(history: History, loss: Loss, settings: Running) -> tuple[History, Step]:
    """What to do after `loss` of a worker that ran with `settings`. Check the history before loading."""
    if loss.cause is Cause.CLOSED:
        return history, Step(settings)
    recent = tuple(old for old in history.losses if loss.at_s - old.at_s < WINDOW_S)
    history = _rested(replace(history, losses=(*recent, loss)), loss)
    if loss.cause in {Cause.OUT_OF_MEMORY, Cause.NO_MEMORY}:
        return history, _smaller(settings)
    if loss.cause in OWN_FAULT and (not loss.has_progress or _is_repeated(recent, loss)):
        return history, next(_safer(settings, loss), Step(settings))
    return history, Step(settings)


def _is_repeated(recent: tuple[Loss, ...], loss: Loss) -> bool:
    return any(old.cause in OWN_FAULT and old.answers & loss.answers for old in recent)


def _rested(history: History, loss: Loss) -> History:
    fruitless = [old for old in history.losses if not old.has_progress]
    if loss.has_progress or len(fruitless) < MAX_LOSSES:
        return history
    why = f"was lost {len(fruitless)} times within {WINDOW_S:.0f} s (last: {loss.cause.value})"
    return History((), loss.at_s + history.rest_s, min(LONGEST_REST_S, 2 * history.rest_s), why)


def _smaller(settings: Running) -> Step:
    """Less memory, the same bits: half the sequences, then three quarters of the context."""
    if settings.sequences > 1:
        fewer = settings.sequences // 2
        return Step(
            replace(settings, sequences=fewer),
            f"out of memory: {fewer} sequences at once instead of {settings.sequences}",
        )
    shorter = settings.context_tokens * 3 // 4 // 256 * 256
    if shorter < LEAST_CONTEXT_TOKENS:
        return Step(settings)
    told = f"out of memory: a context of {shorter} tokens instead of {settings.context_tokens}"
    return Step(replace(settings, context_tokens=shorter), told)


def _safer(settings: Running, loss: Loss) -> Iterator[Step]:
    """Each step that is left, the best first."""
    if loss.is_bus_error and settings.load_mode == "map":
        yield Step(replace(settings, load_mode="read"), "the model file is read instead of mapped")
    if settings.gpu_layers:
        yield Step(replace(settings, gpu_layers=0), "the GPU is left out", changes_bits=True)
    if settings.extra_buffers:
        yield Step(replace(settings, extra_buffers=False), "weights are not repacked", changes_bits=True)
    if settings.threads > 1:
        yield Step(replace(settings, threads=1), "one thread only")
    if settings.flash_attention and settings.kv_type == "f16":  # a quantised cache needs it
        yield Step(replace(settings, flash_attention=False), "no flash attention", changes_bits=True)

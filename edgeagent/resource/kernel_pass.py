"""The measuring pass: overheads, then weight types by worth, then sustained load, within a budget and resumable."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from edgeagent.core.errors import EdgeAgentError, EngineError
from edgeagent.core.hardware import Kernels
from edgeagent.resource.kernels import (
    KINDS,
    Clock,
    RigBench,
    measure_kind,
    measure_overheads,
    measure_steady,
)

BUDGET_S = 60.0
STEADY_S = 5.0
STEADY_PART = 0.15
"""Of the budget, at most so much goes to sustained load."""

Progress = Callable[[str, float], None]
"""Called with what is measured next, and how far the pass is (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Pass:
    """How a pass runs. `keep` is called after each step with all that is known: an interrupted pass goes on there."""

    bench: RigBench
    clock: Clock
    today: str
    budget_s: float = BUDGET_S
    progress: Progress = lambda _what, _share: None
    keep: Callable[[Kernels], None] = lambda _kernels: None


def is_complete(kernels: Kernels | None) -> bool:
    """Whether another pass could add nothing."""
    return kernels is not None and kernels.steady_fraction is not None and not _missing(kernels)


def is_of(kernels: Kernels, bench: RigBench) -> bool:
    """Whether what was measured is about this engine's settings and numbers of threads."""
    return (
        kernels.chunk_tokens == bench.chunk_tokens
        and kernels.kv_type == bench.kv_type
        and kernels.engine_settings == asdict(bench.settings)
        and {o.threads for o in kernels.overheads} in ({*bench.threads}, set())
    )


async def complete(kernels: Kernels | None, work: Pass) -> Kernels:
    """Measure what is missing until the budget is spent. A step once begun is finished.

    Raises EngineError when not even the overheads can be measured; a type that fails is recorded as absent.
    """
    started = work.clock()
    if kernels is None or not is_of(kernels, work.bench):
        kernels = Kernels(
            chunk_tokens=work.bench.chunk_tokens,
            kv_type=work.bench.kv_type,
            engine_settings=asdict(work.bench.settings),
            at=work.today,
        )
    if not kernels.overheads:
        work.progress("layers, attention, batch sizes", 0.0)
        kernels = kernels.model_copy(update={"overheads": await measure_overheads(work.bench)})
        work.keep(kernels)
    for kind in _missing(kernels):
        spent_s = work.clock() - started
        if spent_s >= work.budget_s * (1 - STEADY_PART):
            break
        work.progress(f"weights of type {kind}", spent_s / work.budget_s)
        kernels = await _with_kind(kernels, kind, work)
        work.keep(kernels)
    left_s = work.budget_s - (work.clock() - started)
    if kernels.steady_fraction is None and left_s > 0:
        seconds = min(STEADY_S, left_s, work.budget_s * STEADY_PART)
        work.progress("sustained load", 1 - left_s / work.budget_s)
        fraction = await measure_steady(work.bench, seconds, work.clock)
        kernels = kernels.model_copy(update={"steady_fraction": fraction, "steady_s": seconds})
        work.keep(kernels)
    return kernels


def _missing(kernels: Kernels) -> list[str]:
    measured = {r.type for r in kernels.rates}
    return [kind for kind in KINDS if kind not in measured and kind not in kernels.absent]


async def _with_kind(kernels: Kernels, kind: str, work: Pass) -> Kernels:
    try:
        rates = await measure_kind(work.bench, kind, kernels.overheads)
    except EngineError as error:
        return kernels.model_copy(update={"absent": {**kernels.absent, kind: _reason(error)}})
    return kernels.model_copy(update={"rates": (*kernels.rates, *rates)})


def _reason(error: EdgeAgentError) -> str:
    return str(error).partition(";")[0]

"""Completes a Generation over a chain of executors: when one is lost, the next goes on from the journal."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence

from edgeagent.core.errors import EngineError, EngineLostError, PeerError
from edgeagent.core.generation import Generation, TokenStep
from edgeagent.core.plan import Handover
from edgeagent.execution.executors import Executor

log = logging.getLogger(__name__)


async def complete(generation: Generation, chain: Sequence[Executor]) -> AsyncGenerator[TokenStep | Handover, None]:
    """Every token until the end, wherever it was drawn, with a Handover where the executor changed.

    Raises what the last executor of the chain raises when that is lost, too.
    """
    journal = generation
    for executor, successor in zip(chain, [*chain[1:], None], strict=True):
        try:
            async with contextlib.aclosing(executor.extend(journal)) as steps:
                async for step in steps:
                    _check_order(journal, step, executor)
                    yield step
                    if step.is_end:
                        return
                    journal = journal.extended(step.token)
                    if journal.num_left == 0:
                        return
        except (EngineLostError, PeerError) as error:
            if successor is None:
                raise
            log.warning("handover at_token=%d from=%s to=%s", len(journal.output), executor.name, successor.name)
            yield Handover(at_token=len(journal.output), from_=executor.name, to=successor.name, reason=str(error))
        else:
            return


def _check_order(journal: Generation, step: TokenStep, executor: Executor) -> None:
    if step.position != len(journal.output):
        raise EngineError(
            f"{executor.name} gave token {step.position} where token {len(journal.output)} was due; this is a bug"
        )

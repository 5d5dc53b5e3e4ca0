"""What the daemon records of each answer for a peer that collects: how it ran, and nothing of what was said."""

import json
import logging
from collections.abc import Callable

from edgeagent.core.events import Finished
from edgeagent.core.plan import Costs
from edgeagent.execution.durable import RecordsError
from edgeagent.execution.outbox import Sender

log = logging.getLogger(__name__)


class Recorder:
    """`now` gives seconds since 1970."""

    def __init__(self, sender: Sender, now: Callable[[], float]) -> None:
        self._sender = sender
        self._now = now

    async def note(self, finished: Finished) -> None:
        """On the disk when this returns. A disk that takes nothing costs the record and not the answer."""
        try:
            await self._sender.put(summary(finished, self._now()))
        except RecordsError as error:
            log.error("an answer was not recorded: %s", error)


def summary(finished: Finished, at_s: float) -> str:
    """A JSON text."""
    report = finished.report
    return json.dumps(
        {
            "at": round(at_s, 3),
            "plan": report.plan,
            "model": report.model,
            "variant": report.variant,
            "peer": report.peer,
            "reason": finished.reason,
            "prompt_tokens": finished.usage.prompt_tokens,
            "answer_tokens": finished.usage.completion_tokens,
            "peer_tokens": report.peer_tokens,
            "handovers": len(report.handover),
            "predicted": _costs(report.predicted),
            "measured": _costs(report.measured),
        }
    )


def _costs(costs: Costs) -> dict[str, float | int | None]:
    return {name: round(v, 6) if isinstance(v, float) else v for name, v in costs.model_dump().items()}

"""What a model's lost workers teach: who was under way in them, and how the next one is loaded."""

import logging
import signal
import time
from dataclasses import replace

from edgeagent.execution.loading import LoadSettings
from edgeagent.execution.loss import Cause, cause_of
from edgeagent.execution.recovery import History, Loss, Running, recover
from edgeagent.execution.supervisor import Worker

log = logging.getLogger(__name__)


class Recovering:
    """Counts answers in and out of one model's workers. `recovery` decides; this remembers."""

    def __init__(self) -> None:
        self._history = History()
        self._under_way: set[str] = set()
        self._interrupted: set[str] = set()
        self._has_progress = False
        self._told: dict[str, str] = {}

    def began(self, answer: str) -> str | None:
        """An answer begins, or goes on in another worker: then what changed with it, if anything did."""
        self._under_way.add(answer)
        return self._told.pop(answer, None)

    def progressed(self) -> None:
        if not self._has_progress:
            self._has_progress = True
            self._history = self._history.succeeded()

    def ended(self, answer: str, *, is_lost: bool) -> None:
        """It ended, or was lost with its worker."""
        self._under_way.discard(answer)
        if is_lost:
            self._interrupted.add(answer)

    def check(self) -> None:
        """Raises EngineLostError while the model may not be loaded."""
        self._history.check(time.monotonic())

    def lost(self, worker: Worker, settings: LoadSettings) -> LoadSettings:
        """How to load after this worker is gone. Call it when the answers in it have been told, once."""
        cause = worker.cause or cause_of(worker.exit_status or 0, num_oom_kills=0)
        if cause is Cause.CLOSED:
            return settings
        interrupted = frozenset(self._interrupted | self._under_way)
        loss = Loss(time.monotonic(), cause, self._has_progress, interrupted, worker.exit_status == -signal.SIGBUS)
        self._history, step = recover(self._history, loss, _running(settings))
        self._has_progress = False
        log.warning("engine worker lost pid=%d cause=%s change=%s", worker.pid, cause, step.change or "none")
        if step.change:
            self._told |= dict.fromkeys(interrupted, step.change)
        self._interrupted.clear()
        s = step.settings
        return replace(
            settings, extra_buffers=s.extra_buffers, flash_attention=s.flash_attention, threads=s.threads,
            load_mode=s.load_mode, gpu_layers=s.gpu_layers, context_tokens=s.context_tokens, sequences=s.sequences,
        )  # fmt: skip


def _running(settings: LoadSettings) -> Running:
    return Running(
        settings.extra_buffers, settings.flash_attention, settings.kv_type, settings.threads, settings.load_mode,
        settings.gpu_layers, settings.context_tokens, settings.sequences,
    )  # fmt: skip

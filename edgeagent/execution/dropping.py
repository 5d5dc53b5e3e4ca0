"""Says that payloads are dropped, however many: anybody who may write on a broker could fill a log with them."""

import logging
import time
from collections.abc import Callable

EACH_S = 60.0


class Dropping:
    """One line each EACH_S at most, with how many were dropped without one. `now` gives monotonic seconds."""

    def __init__(self, log: logging.Logger, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._what = what
        self._now = now
        self._said_at_s: float | None = None
        self._num_unsaid = 0

    def note(self, reason: object) -> None:
        now_s = self._now()
        if self._said_at_s is not None and now_s - self._said_at_s < EACH_S:
            self._num_unsaid += 1
            return
        more = f" ({self._num_unsaid} more since the last such line)" if self._num_unsaid else ""
        self._log.warning("dropped %s: %s%s", self._what, reason, more)
        self._said_at_s, self._num_unsaid = now_s, 0

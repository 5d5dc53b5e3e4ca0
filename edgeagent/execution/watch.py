"""Looks at a worker while it owes answers, and tells when it hangs. While it owes none, nothing wakes up."""

import asyncio
import time
from collections.abc import Callable, Iterable

from edgeagent.execution.vitals import Hang, Patience, Silence, read_vitals, thread_states


class Watch:
    """`on_hang` is called once the process `pid` counts as hung."""

    def __init__(self, pid: int, patience: Patience, on_hang: Callable[[Hang], None]) -> None:
        self.duty = 1.0
        """Share of the time that the worker was told to work: it is silent while it rests."""
        self.step_s = 0.0
        """The longest step: as predicted, or seen if that was longer."""
        self._pid = pid
        self._patience = patience
        self._on_hang = on_hang
        self._silence = Silence(patience)
        self._bound_s = 0.0
        self._tick: asyncio.TimerHandle | None = None

    def start(self, stall_s: float | None) -> None:
        """From the first call on that waits; others that come meanwhile change nothing."""
        if self._tick is None:
            self.heard([stall_s], is_step=False)
            self._schedule()

    def stop(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None

    def heard(self, stalls_s: Iterable[float | None], *, is_step: bool) -> None:
        """A sign of life: from now on the worker may be silent as long as the most patient of the calls allows."""
        now = time.monotonic()
        if is_step:
            self.step_s = max(self.step_s, self._silence.step_s(now) * self.duty)
        self._silence.heard(now)
        usual_s = self._patience.bound_s(self.step_s) / self.duty
        self._bound_s = max((usual_s if s is None else s for s in stalls_s), default=usual_s)

    def _schedule(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(self._patience.tick_s, self._look)

    def _look(self) -> None:
        self._schedule()
        vitals = read_vitals(self._pid)
        if vitals is None:
            return
        if hang := self._silence.look(time.monotonic(), vitals, thread_states(self._pid), self._bound_s):
            self._on_hang(hang)

"""Signs of life of another process, from /proc, and when their absence means that it hangs."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICKS_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STOPPED = frozenset("Tt")
RUNNABLE, ON_DISK = "R", "D"


@dataclass(frozen=True, slots=True)
class Vitals:
    """State letter (proc_pid_stat(5)) of the main thread, and CPU time of all threads so far."""

    state: str
    cpu_s: float


def read_vitals(pid: int, proc: Path = Path("/proc")) -> Vitals | None:
    """None: there is no such process, or it may not be read."""
    try:
        fields = (proc / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return Vitals(fields[0], (int(fields[11]) + int(fields[12])) / TICKS_S)
    except (OSError, ValueError, IndexError):
        return None


def thread_states(pid: int, proc: Path = Path("/proc")) -> str:
    """The state letters of all threads."""
    states = []
    with contextlib.suppress(OSError):
        for thread in (proc / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, IndexError):
                states.append((thread / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2][1])
    return "".join(states)


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """What the process has in memory now."""
    try:
        return int((proc / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker that owes an answer may be silent: `factor` times its longest step, at least `floor_s`.

    `unknown_s` while no step was predicted or seen: the first may be a chunk of a large model on a small board.
    """

    floor_s: float = 10.0
    unknown_s: float = 120.0
    factor: float = 10.0
    stopped_s: float = 1.0
    disk_s: float = 300.0
    """Waiting for storage: weights may come from a slow card, or from a share that is gone."""
    tick_s: float = 0.5

    def bound_s(self, longest_step_s: float) -> float:
        return max(self.floor_s, self.factor * longest_step_s) if longest_step_s > 0 else self.unknown_s


@dataclass(frozen=True, slots=True)
class Hang:
    """Why a process counts as hung. One that was stopped (SIGSTOP, a debugger) did nothing wrong by itself."""

    is_stopped: bool
    reason: str


class Silence:
    """Adds up the time a worker was silent for no good reason since it was last heard. Pure: times are handed in.

    What counts is CPU time that it used, and time in which all its threads slept. What does not: a thread that waits
    for a core or for storage, and gaps in which nobody looked because this process itself was starved or stopped. So
    one look counts for two ticks at most.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._counted_s = 0.0
        self._disk_s = 0.0
        self._stopped_s: float | None = None
        self._cpu_s: float | None = None
        self._looked_s = 0.0

    def heard(self, now_s: float) -> None:
        """The worker gave a sign of life, or was just asked for one."""
        self._counted_s = self._disk_s = 0.0
        self._stopped_s = None
        self._looked_s = now_s

    def step_s(self, now_s: float) -> float:
        """Length of the step that ends now."""
        return self._counted_s + self._since_look_s(now_s)

    def look(self, now_s: float, vitals: Vitals, threads: str, bound_s: float) -> Hang | None:
        """None: the worker does not count as hung, yet. `threads`: the states of all its threads."""
        elapsed_s, self._looked_s = self._since_look_s(now_s), now_s
        used_s = 0.0 if self._cpu_s is None else vitals.cpu_s - self._cpu_s
        self._cpu_s = vitals.cpu_s
        if vitals.state in STOPPED:
            # One that ran since the last look is stopped and continued in turns: slowed, not hung.
            self._stopped_s = 0.0 if self._stopped_s is None or used_s else self._stopped_s + elapsed_s
            return Hang(True, "was stopped") if self._stopped_s >= self._patience.stopped_s else None
        self._stopped_s = None
        is_waiting = RUNNABLE in threads or ON_DISK in threads
        self._counted_s += min(elapsed_s, used_s) if is_waiting else elapsed_s
        self._disk_s += elapsed_s if ON_DISK in threads and not used_s else 0.0
        if self._disk_s >= self._patience.disk_s:
            return Hang(False, f"waited {self._patience.disk_s:g} s for storage")
        return Hang(False, f"made no progress in {bound_s:.3g} s") if self._counted_s >= bound_s else None

    def _since_look_s(self, now_s: float) -> float:
        return min(now_s - self._looked_s, 2 * self._patience.tick_s)

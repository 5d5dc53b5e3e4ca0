"""What a worker process may take of the machine: told at its start, set by itself before it loads anything."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

OOM_SCORE = 500
"""Half of the scale of `oom_score_adj` (proc_pid_oom_score_adj(5)): the kernel kills any worker before the daemon."""
MAX_OOM_SCORE = 1000
HOSTILE_CPU_S = 24 * 3600
"""For work on files that may be hostile. Generous, because it counts all threads and scoring a long text takes hours on
a small board: it ends what would run for ever."""
CHECK_S = 10.0
_OOM_FILE = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """0 leaves a thing as it is.

    `address_bytes` bounds all mappings (RLIMIT_AS), `data_bytes` private writable memory alone (RLIMIT_DATA), `cpu_s`
    the CPU time of all threads together. `nice` and `oom_score` are on top of the daemon's own.
    """

    address_bytes: int = 0
    data_bytes: int = 0
    cpu_s: int = 0
    nice: int = 0
    oom_score: int = OOM_SCORE

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "WorkerLimits":
        return cls(**json.loads(text))

    @property
    def memory_bytes(self) -> int:
        """The bound that is met first; 0: none."""
        return min(filter(None, (self.data_bytes, self.address_bytes)), default=0)


HOSTILE_FILE = WorkerLimits(cpu_s=HOSTILE_CPU_S)
"""For a worker that reads files of unknown origin once, without the daemon waiting at its side."""


def confine(limits: WorkerLimits) -> list[str]:
    """Put this process under `limits`, and forbid core dumps; what could not be set, and why."""
    steps: dict[str, Callable[[], object]] = {"core size": lambda: _bound(resource.RLIMIT_CORE, 0)}
    if limits.address_bytes:
        steps["address space"] = lambda: _bound(resource.RLIMIT_AS, limits.address_bytes)
    if limits.data_bytes:
        steps["data size"] = lambda: _bound(resource.RLIMIT_DATA, limits.data_bytes)
    if limits.cpu_s:
        steps["CPU time"] = lambda: _bound(resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1)
    if limits.nice:
        steps["nice"] = lambda: os.nice(limits.nice)
    if limits.oom_score:
        steps["OOM score"] = lambda: _raise_oom_score(limits.oom_score)
    return [f"{name} ({why})" for name, step in steps.items() if (why := _fault(step))]


def is_memory_bounded() -> bool:
    """Whether this process may run out of memory before the machine does."""
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def missing_here(limits: WorkerLimits) -> list[str]:
    """Which of these limits a worker could not set on this machine, tried in a short-lived process."""
    program = f"import sys, {__name__} as c; print(chr(10).join(c.confine(c.WorkerLimits.decode(sys.argv[1]))))"
    command = [sys.executable, "-c", program, limits.encode()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return [f"all ({error})"]
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


def _bound(kind: int, soft: int, hard: int | None = None) -> None:
    """At most `soft`: a stricter bound that this process was started under stays."""
    _, highest = resource.getrlimit(kind)
    wanted = soft if hard is None else hard
    ceiling = wanted if highest == resource.RLIM_INFINITY else min(wanted, highest)
    resource.setrlimit(kind, (min(soft, ceiling), ceiling))


def _raise_oom_score(by: int) -> None:
    score = int(_OOM_FILE.read_text(encoding="ascii")) + by
    _OOM_FILE.write_text(str(min(MAX_OOM_SCORE, score)), encoding="ascii")


def _fault(step: Callable[[], object]) -> str:
    try:
        step()
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""

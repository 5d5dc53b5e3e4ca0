"""Why a worker is gone: by its exit status, by what the supervisor saw, and by the kernel's own count. Pure."""

import signal
from enum import StrEnum

CRASH_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS, signal.SIGFPE})


class Cause(StrEnum):
    CRASHED = "crashed"
    """By itself: a signal of its own making, or an exit with an error."""
    STUCK = "stuck"
    """It made no progress, and was killed for it."""
    STOPPED = "stopped"
    """Somebody stopped it, and it was killed so that its answers go on elsewhere."""
    OUT_OF_MEMORY = "out of memory"
    """The kernel ended it."""
    NO_MEMORY = "refused memory"
    """It asked for more than its limit, or than there is, and could not go on without."""
    KILLED = "killed"
    """By somebody else, or without a sign of who."""
    OVERRAN = "overran"
    """It used the CPU time it was given."""
    CLOSED = "closed"
    """By the daemon, on purpose."""


def cause_of(exit_status: int, *, num_oom_kills: int, told_of_memory: bool = False) -> Cause:
    """Of a worker that ended by itself. `num_oom_kills`: by how much the kernel's count rose meanwhile;
    `told_of_memory`: its last words were of an allocation that failed.
    """
    if exit_status == -signal.SIGKILL:
        return Cause.OUT_OF_MEMORY if num_oom_kills > 0 else Cause.KILLED
    if exit_status == -signal.SIGXCPU:
        return Cause.OVERRAN
    if told_of_memory and (exit_status > 0 or exit_status == -signal.SIGABRT):
        return Cause.NO_MEMORY
    return Cause.CRASHED if exit_status > 0 or -exit_status in CRASH_SIGNALS else Cause.KILLED

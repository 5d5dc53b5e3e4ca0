"""A CPU quota on some processes through a control group of their own (version 1 or 2), as long as a block runs."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT_V1, ROOT_V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


def is_available() -> bool:
    """Whether this process may make such a group."""
    group = _path()
    try:
        group.mkdir()
        group.rmdir()
    except OSError:
        return False
    return _is_v1() or "cpu" in (ROOT_V2 / "cgroup.subtree_control").read_text().split()


@contextlib.contextmanager
def limited(pids: Sequence[int], cores: float, period_s: float, name: str = "") -> Iterator[None]:
    """`cores` CPUs' worth of time for all threads of these together. Raises OSError without the right to.

    Groups that stand at the same time have different names.
    """
    group, period_us = _path(name), round(period_s * 1e6)
    group.mkdir()
    try:
        if _is_v1():
            (group / "cpu.cfs_period_us").write_text(str(period_us))
            (group / "cpu.cfs_quota_us").write_text(str(round(cores * period_us)))
        else:
            (group / "cpu.max").write_text(f"{round(cores * period_us)} {period_us}")
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield
        for pid in pids:
            with contextlib.suppress(OSError):  # it may have ended
                (group.parent / "cgroup.procs").write_text(str(pid))
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    for _ in range(50):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.02)  # a process that has just ended is counted for a moment longer
        else:
            return


def _is_v1() -> bool:
    return (ROOT_V1 / "cpu.cfs_quota_us").exists() or (ROOT_V1 / "cgroup.procs").exists()


def _path(name: str = "") -> Path:
    return (ROOT_V1 if _is_v1() else ROOT_V2) / f"edgeagent-bench-{os.getpid()}{name}"

"""Why a worker is gone: by its status and by the kernel's count of processes ended for want of memory."""

import signal
from pathlib import Path

import pytest

from edgeagent.execution.loss import Cause, cause_of
from edgeagent.execution.oom import count_oom_kills


@pytest.mark.parametrize(
    ("status", "num_kills", "cause"),
    [
        (-signal.SIGKILL, 0, Cause.KILLED),
        (-signal.SIGKILL, 1, Cause.OUT_OF_MEMORY),
        (-signal.SIGSEGV, 1, Cause.CRASHED),
        (-signal.SIGBUS, 0, Cause.CRASHED),
        (-signal.SIGTERM, 0, Cause.KILLED),
        (-signal.SIGXCPU, 0, Cause.OVERRAN),
        (1, 0, Cause.CRASHED),
        (0, 0, Cause.KILLED),
    ],
)
def test_cause_by_status(status: int, num_kills: int, cause: Cause) -> None:
    assert cause_of(status, num_oom_kills=num_kills) is cause


def test_worker_that_told_of_memory_was_refused_some() -> None:
    for status in (1, -signal.SIGABRT):
        assert cause_of(status, num_oom_kills=0, told_of_memory=True) is Cause.NO_MEMORY
    assert cause_of(-signal.SIGSEGV, num_oom_kills=0, told_of_memory=True) is Cause.CRASHED


def put(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def test_own_group_counts_before_the_whole_machine(tmp_path: Path) -> None:
    assert count_oom_kills(tmp_path) == 0
    put(tmp_path, "proc/vmstat", "nr_free_pages 12\noom_kill 9\n")
    put(tmp_path, "proc/self/cgroup", "0::/system.slice/edgeagent.service\n")
    assert count_oom_kills(tmp_path) == 9
    put(tmp_path, "sys/fs/cgroup/system.slice/edgeagent.service/memory.events", "low 0\noom 3\noom_kill 2\n")
    assert count_oom_kills(tmp_path) == 2


def test_version_1_group_counts(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "4:memory:/lxc/7\n3:cpu,cpuacct:/lxc/7\n0::/\n")
    put(tmp_path, "sys/fs/cgroup/memory/lxc/7/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert count_oom_kills(tmp_path) == 5


def test_this_machine_is_read() -> None:
    assert count_oom_kills() >= 0

"""Limits set by a process itself, in processes of their own."""

import resource
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.confine import HOSTILE_FILE, WorkerLimits, missing_here

COUNTS = st.integers(0, 2**40)


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 19), st.integers(0, 1000))
def test_limits_survive_the_way_to_the_worker(address: int, data: int, cpu_s: int, nice: int, oom: int) -> None:
    limits = WorkerLimits(address, data, cpu_s, nice, oom)
    assert WorkerLimits.decode(limits.encode()) == limits


def test_tightest_memory_bound_is_told() -> None:
    assert WorkerLimits().memory_bytes == 0
    assert WorkerLimits(address_bytes=5).memory_bytes == 5
    assert WorkerLimits(address_bytes=5, data_bytes=3).memory_bytes == 3


def test_usual_limits_can_be_set_on_this_machine() -> None:
    assert missing_here(WorkerLimits(2**33, 2**32, 3600, 2, 500)) == []
    assert missing_here(HOSTILE_FILE) == []


def test_what_cannot_be_set_is_told_with_its_reason() -> None:
    missing = missing_here(WorkerLimits(oom_score=-5000))
    assert len(missing) == 1
    assert missing[0].startswith("OOM score (")


def test_limit_from_outside_that_is_stricter_stays() -> None:
    program = (
        "import resource; from edgeagent.execution.confine import WorkerLimits, confine;"
        "assert confine(WorkerLimits(data_bytes=2**40)) == [], 1; print(*resource.getrlimit(resource.RLIMIT_DATA))"
    )

    def outside() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31))

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, preexec_fn=outside)
    assert done.stdout.split() == [b"2147483648", b"2147483648"]

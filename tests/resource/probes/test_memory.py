"""Memory, swap and pressure, with what control groups take away."""

from collections.abc import Callable, Mapping

import pytest

from edgeagent.resource.probes.memory import read_memory
from edgeagent.resource.probes.sysroot import Sysroot

Tree = Callable[[Mapping[str, str]], Sysroot]
KIB = 1024
MEMINFO = {
    "proc/meminfo": "MemTotal: 8000 kB\nMemAvailable: 6000 kB\nSwapTotal: 4000 kB\nSwapFree: 3000 kB\n",
    "proc/self/cgroup": "0::/a/b\n",
}
GROUP = "sys/fs/cgroup/a/b"
MACHINE = "proc/pressure/memory"
PSI = "some avg10={} avg60=0.50 avg300=0.10 total=123\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


def test_swap_is_the_machines_without_a_limit(tree: Tree) -> None:
    memory = read_memory(tree(MEMINFO))
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (4000 * KIB, 3000 * KIB)


@pytest.mark.parametrize(
    ("limit", "used", "total", "free"), [("0", "0", 0, 0), ("2048000", "1024000", 2048000, 1024000)]
)
def test_swap_limit_of_a_group_counts(tree: Tree, limit: str, used: str, total: int, free: int) -> None:
    files = {f"{GROUP}/memory.swap.max": limit, f"{GROUP}/memory.swap.current": used}
    memory = read_memory(tree({**MEMINFO, **files}))
    assert (memory.swap_total_bytes, memory.swap_free_bytes) == (total, free)


def test_memory_high_above_the_group_counts_as_a_limit(tree: Tree) -> None:
    files = {f"{GROUP}/memory.max": "max", "sys/fs/cgroup/a/memory.high": "3000000"}
    memory = read_memory(tree({**MEMINFO, **files, "sys/fs/cgroup/a/memory.current": "1000000"}))
    assert (memory.total_bytes, memory.available_bytes) == (3_000_000, 2_000_000)


def test_both_limits_of_one_group_count(tree: Tree) -> None:
    files = {f"{GROUP}/memory.max": "5000000", f"{GROUP}/memory.high": "4000000", f"{GROUP}/memory.current": "500000"}
    assert read_memory(tree({**MEMINFO, **files})).total_bytes == 4_000_000


def test_pressure_of_a_group_counts_when_it_is_higher(tree: Tree) -> None:
    root = tree({**MEMINFO, MACHINE: PSI.format("1.25"), f"{GROUP}/memory.pressure": PSI.format("17.50")})
    assert read_memory(root).pressure_percent == 17.5
    assert "memory.pressure_percent" not in root.gaps


def test_pressure_of_the_machine_counts_when_the_groups_is_lower(tree: Tree) -> None:
    root = tree({**MEMINFO, MACHINE: PSI.format("3.00"), f"{GROUP}/memory.pressure": PSI.format("0.00")})
    assert read_memory(root).pressure_percent == 3.0


def test_kernel_without_pressure_is_a_gap(tree: Tree) -> None:
    root = tree(MEMINFO)
    assert read_memory(root).pressure_percent is None
    assert root.gaps["memory.pressure_percent"] == "absent: this kernel does not account pressure"


@pytest.mark.parametrize("text", ["", "some avg10=nan", "some avg10=101.00", "full avg10=1.00"])
def test_pressure_that_is_none_is_malformed(tree: Tree, text: str) -> None:
    root = tree({**MEMINFO, MACHINE: text})
    assert read_memory(root).pressure_percent is None
    assert root.gaps["memory.pressure_percent"].startswith("malformed")

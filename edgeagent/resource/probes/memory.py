"""Memory this process may use: the machine's, or less where a control group says so."""

from typing import NamedTuple

from edgeagent.core.hardware import MemoryFacts
from edgeagent.resource.probes.cgroups import group_folders
from edgeagent.resource.probes.pressure import read_memory_pressure
from edgeagent.resource.probes.sysroot import Sysroot

KIB = 1024


class Limit(NamedTuple):
    limit: int
    used: int


def read_memory(root: Sysroot) -> MemoryFacts:
    """Total and available bytes; zeros, and a gap, when the kernel does not say."""
    facts = _meminfo(root)
    total, available = facts.get("MemTotal", 0), facts.get("MemAvailable", facts.get("MemFree", 0))
    swap, swap_free = facts.get("SwapTotal", 0), facts.get("SwapFree", 0)
    if not total:
        root.note("memory", "absent: /proc/meminfo names no MemTotal")
    for group in _limits(root):
        total = min(total, group.limit)
        available = min(available, max(0, group.limit - group.used))
    for group in _swap_limits(root):
        swap = min(swap, group.limit)
        swap_free = min(swap_free, max(0, group.limit - group.used))
    return MemoryFacts(
        total_bytes=total,
        available_bytes=available,
        swap_total_bytes=swap,
        swap_free_bytes=min(swap, swap_free),
        pressure_percent=read_memory_pressure(root),
    )


def _meminfo(root: Sysroot) -> dict[str, int]:
    facts: dict[str, int] = {}
    for line in root.lines("proc/meminfo"):
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB" and number.isascii() and number.isdigit() and len(number) <= 16:
            facts[name] = int(number) * KIB
    return facts


def _limits(root: Sysroot) -> list[Limit]:
    """Limit and use, in bytes, of every group on the way up that has a limit."""
    found: list[Limit] = []
    for folder in group_folders(root, "memory"):
        limits = [root.number(file) for file in _limit_files(root, folder)]
        for limit in [limit for limit in limits if limit is not None and limit >= 0]:
            used = root.number(f"{folder}/memory.current") or root.number(f"{folder}/memory.usage_in_bytes") or 0
            found.append(Limit(limit, max(0, used - _reclaimable(root, folder))))
    return found


def _limit_files(root: Sysroot, folder: str) -> list[str]:
    """Those with a limit in them. Over `memory.high` the kernel slows a group down until it gives memory back."""
    second = [f"{folder}/{name}" for name in ("memory.max", "memory.high")]
    first = f"{folder}/memory.limit_in_bytes"
    return [file for file in (*second, first) if root.text(file) not in {None, "max"}]


def _swap_limits(root: Sysroot) -> list[Limit]:
    """The second version of control groups counts swap apart; the first counts it with memory, and is left out."""
    found: list[Limit] = []
    for folder in group_folders(root, "memory"):
        if root.text(f"{folder}/memory.swap.max") not in {None, "max"}:
            limit = root.number(f"{folder}/memory.swap.max")
            used = root.number(f"{folder}/memory.swap.current") or 0
            found += [Limit(limit, used)] if limit is not None and limit >= 0 else []
    return found


def _reclaimable(root: Sysroot, folder: str) -> int:
    """Page cache the kernel gives back under pressure; the group's use counts it."""
    for line in root.lines(f"{folder}/memory.stat"):
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"} and value.isascii() and value.isdigit():
            return int(value[:20])
    return 0

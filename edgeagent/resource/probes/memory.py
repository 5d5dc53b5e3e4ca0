"""Memory this process may use: the machine's, or less where a control group says so."""

from edgeagent.core.hardware import MemoryFacts
from edgeagent.resource.probes.cgroups import group_folders
from edgeagent.resource.probes.sysroot import Sysroot

KIB = 1024


def read_memory(root: Sysroot) -> MemoryFacts:
    """Total and available bytes; zeros, and a gap, when the kernel does not say."""
    facts = _meminfo(root)
    total, available = facts.get("MemTotal", 0), facts.get("MemAvailable", facts.get("MemFree", 0))
    if not total:
        root.note("memory", "absent: /proc/meminfo names no MemTotal")
    for limit, used in _limits(root):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return MemoryFacts(total_bytes=total, available_bytes=available)


def _meminfo(root: Sysroot) -> dict[str, int]:
    facts: dict[str, int] = {}
    for line in (root.text("proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        number, _, unit = value.strip().partition(" ")
        if unit == "kB" and number.isascii() and number.isdigit():
            facts[name] = int(number) * KIB
    return facts


def _limits(root: Sysroot) -> list[tuple[int, int]]:
    """Limit and use, in bytes, of every group on the way up that has a limit."""
    found: list[tuple[int, int]] = []
    for folder in group_folders(root, "memory"):
        if root.text(f"{folder}/memory.max") not in {None, "max"}:
            limit, used = root.number(f"{folder}/memory.max"), root.number(f"{folder}/memory.current")
        else:
            limit = root.number(f"{folder}/memory.limit_in_bytes")
            used = root.number(f"{folder}/memory.usage_in_bytes")
        if limit is not None:
            found.append((limit, max(0, (used or 0) - _reclaimable(root, folder))))
    return found


def _reclaimable(root: Sysroot, folder: str) -> int:
    """Page cache the kernel gives back under pressure; the group's use counts it."""
    for line in (root.text(f"{folder}/memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"} and value.isascii() and value.isdigit():
            return int(value)
    return 0

"""How often the kernel has ended a process for want of memory."""

from pathlib import Path


def count_oom_kills(root: Path = Path("/")) -> int:
    """Processes that the kernel has ended for want of memory, in this control group if it counts, else in all.

    Version 2 counts in `memory.events`, version 1 in `memory.oom_control` (cgroups(7); since Linux 4.13).
    """
    for path in (*_group_files(root), root / "proc/vmstat"):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        counts = [int(value) for name, _, value in (line.partition(" ") for line in lines) if name == "oom_kill"]
        if counts:
            return counts[0]
    return 0


def _group_files(root: Path) -> list[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            found.append(root / "sys/fs/cgroup" / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(root / "sys/fs/cgroup/memory" / group.lstrip("/") / "memory.oom_control")
    return found

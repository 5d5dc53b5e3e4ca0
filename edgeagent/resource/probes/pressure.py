"""Pressure stall information: how much of the time tasks wait for memory."""

import re

from edgeagent.resource.probes.cgroups import group_folders
from edgeagent.resource.probes.sysroot import Sysroot

MACHINE = "proc/pressure/memory"
SOME = re.compile(r"^some avg10=([0-9]{1,3}(?:\.[0-9]{1,6})?)\b")
"""Linux, `Documentation/accounting/psi.rst`."""


def read_memory_pressure(root: Sysroot) -> float | None:
    """Percent of the last 10 s in which some task waited for memory: the machine's, or a group's that is higher."""
    files = [MACHINE, *(f"{folder}/memory.pressure" for folder in group_folders(root, "memory"))]
    shares = [share for file in files if (share := _some(root, file)) is not None]
    if not shares:
        why = root.because(MACHINE, "absent: this kernel does not account pressure")
        root.note("memory.pressure_percent", why)
    return max(shares, default=None)


def _some(root: Sysroot, file: str) -> float | None:
    text = root.text(file)
    if text is None:
        return None
    found = SOME.match(text)
    if found is None or float(found[1]) > 100:
        root.note(f"/{file}", "malformed: no `some avg10` in it")
        return None
    return float(found[1])

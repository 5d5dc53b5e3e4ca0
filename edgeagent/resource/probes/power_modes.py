"""The power mode in force: Jetson's nvpmodel, a PC's platform profile, or else the cpufreq governor."""

import re
from typing import NamedTuple

from edgeagent.resource.probes.cores import BASE
from edgeagent.resource.probes.sysroot import Sysroot

NVPMODEL_CONFIG = "etc/nvpmodel.conf"
NVPMODEL_STATUS = "var/lib/nvpmodel/status"
MODE = re.compile(r"^<\s*POWER_MODEL\s+ID\s*=\s*([0-9]{1,4})\s+NAME\s*=\s*([^\s>]{1,64})\s*>", re.MULTILINE)
DEFAULT = re.compile(r"^<\s*PM_CONFIG\s+DEFAULT\s*=\s*([0-9]{1,4})\s*>", re.MULTILINE)
STATUS = re.compile(r"\bpmode:([0-9]{1,4})\b")
"""`pmode:0002 fmode:quiet` of the status file, `< POWER_MODEL ID=2 NAME=MAXN_SUPER >` of the configuration
(NVIDIA, Jetson Linux Developer Guide, "Power Mode Controls")."""
PROFILE = "sys/firmware/acpi/platform_profile"
MAX_MODES = 32


class PowerModes(NamedTuple):
    mode: str | None
    modes: tuple[str, ...] = ()


def read_power_modes(root: Sysroot) -> PowerModes:
    """The mode and those it could be; None and a gap where nothing tells."""
    for read in (_nvpmodel, _platform_profile, _governor):
        if (found := read(root)) is not None:
            return found
    root.note("power.mode", "absent: no nvpmodel, platform profile or cpufreq governor")
    return PowerModes(None)


def _nvpmodel(root: Sysroot) -> PowerModes | None:
    """The mode that was set last, or the one a Jetson starts in."""
    config, status = root.text(NVPMODEL_CONFIG), root.text(NVPMODEL_STATUS)
    names = {int(number): name for number, name in MODE.findall(config or "") if name.isprintable()}
    current = STATUS.search(status or "") or DEFAULT.search(config or "")
    if not names and current is None:
        return None
    mode = names.get(int(current[1]), str(int(current[1]))) if current else None
    return PowerModes(mode, tuple(names[number] for number in sorted(names)[:MAX_MODES]))


def _platform_profile(root: Sysroot) -> PowerModes | None:
    mode = root.line(PROFILE)
    return PowerModes(mode, _words(root, f"{PROFILE}_choices")) if mode else None


def _governor(root: Sysroot) -> PowerModes | None:
    for folder in (f"{BASE}/cpu0/cpufreq", f"{BASE}/cpufreq/policy0"):
        if mode := root.line(f"{folder}/scaling_governor"):
            return PowerModes(mode, _words(root, f"{folder}/scaling_available_governors"))
    return None


def _words(root: Sysroot, file: str) -> tuple[str, ...]:
    return tuple((root.line(file) or "").split()[:MAX_MODES])

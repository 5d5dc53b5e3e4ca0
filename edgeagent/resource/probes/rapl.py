"""Energy counters of x86 CPUs (RAPL). A draw takes two samples: see `rapl_watts`."""

from collections.abc import Mapping
from typing import NamedTuple

from edgeagent.resource.probes.sysroot import Sysroot, distinct

CLASS = "sys/class/powercap"


class Counter(NamedTuple):
    """Microjoules since some start; after `range_uj` it begins again at 0."""

    energy_uj: int
    range_uj: int | None


def rapl_zones(root: Sysroot) -> dict[str, str]:
    """Zone (`package-0`, `dram`) to its folder; a second one of a name has the folder's name behind it."""
    zones: dict[str, str] = {}
    folders = [name for name in root.names(CLASS) if ":" in name]
    for folder in sorted(folders, key=lambda name: ("mmio" in name, name)):  # a second view of the same package
        zones[distinct(root.line(f"{CLASS}/{folder}/name") or folder, zones, folder)] = folder
    return zones


def read_rapl(root: Sysroot) -> dict[str, Counter]:
    """Every counter this user may read: only root's are, since 2020 (CVE-2020-8694); else a gap says `denied`."""
    found: dict[str, Counter] = {}
    for name, folder in rapl_zones(root).items():
        energy = root.number(f"{CLASS}/{folder}/energy_uj")
        if energy is not None and energy >= 0:
            found[name] = Counter(energy, root.number(f"{CLASS}/{folder}/max_energy_range_uj"))
    return found


def rapl_watts(before: Mapping[str, Counter], after: Mapping[str, Counter], elapsed_s: float) -> dict[str, float]:
    """Mean draw between two samples, of the zones in both. A counter that began again may have done so once."""
    if elapsed_s <= 0:
        return {}
    watts: dict[str, float] = {}
    for name in before.keys() & after.keys():
        spent = after[name].energy_uj - before[name].energy_uj
        if spent < 0:
            spent += after[name].range_uj or 0
        if spent >= 0:
            watts[name] = spent / 1e6 / elapsed_s
    return watts

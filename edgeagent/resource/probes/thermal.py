"""Temperatures, and the one from which the kernel slows the CPU."""

import re
from collections.abc import Iterator

from edgeagent.core.hardware import Thermal
from edgeagent.resource.probes.sysroot import Sysroot, distinct
from edgeagent.resource.probes.throttling import CLASS, cools_cpu, read_throttled

HWMON = "sys/class/hwmon"
CPU_CHIPS = {"coretemp", "k10temp", "zenpower", "cpu_thermal", "scmi_sensors"}
"""Hardware monitors that tell the CPU's temperature where there are no thermal zones (Linux, `Documentation/hwmon`)."""
CPU_ZONE = re.compile(r"cpu|core|soc|package|acpitz", re.IGNORECASE)
PLAUSIBLE_C = (-60.0, 200.0)
"""Outside of it a sensor reports that it has nothing to report (-274 °C is THERMAL_TEMP_INVALID)."""
PLAUSIBLE_TRIP_C = (40.0, 150.0)
"""A trip point that nobody set is 0 or far below (x86_pkg_temp)."""
NUMBERED_TYPE = re.compile(r"trip_point_([0-9]{1,3})_type")
NUMBERED_COOLER = re.compile(r"cdev([0-9]{1,3})")


def read_thermal(root: Sysroot) -> Thermal:
    """Zones in °C. `throttled` is None where neither firmware nor a CPU cooling device tells."""
    folders = [name for name in root.names(CLASS) if name.startswith("thermal_zone")]
    zones = dict(_readings(root, folders)) or dict(_monitors(root))
    trips = [celsius for folder in folders for celsius in _cpu_trips(root, folder)]
    throttled = read_throttled(root)
    if not zones:
        root.note("thermal", "absent: no thermal zone can be read")
    if throttled is None:
        root.gaps.setdefault("thermal.throttled", "absent: neither firmware nor a cooling device of the CPU tells")
    if not trips:
        root.note("thermal.throttle_c", "absent: no zone has a passive trip point for the CPU")
    return Thermal(zones=zones, throttled=throttled, throttle_c=min(trips, default=None))


def _readings(root: Sysroot, folders: list[str]) -> Iterator[tuple[str, float]]:
    seen: set[str] = set()
    for folder in folders:
        celsius = _celsius(root, f"{CLASS}/{folder}/temp", PLAUSIBLE_C)
        if celsius is not None:
            name = distinct(root.line(f"{CLASS}/{folder}/type") or folder, seen, folder)
            seen.add(name)
            yield name, celsius


def _monitors(root: Sysroot) -> Iterator[tuple[str, float]]:
    seen: set[str] = set()
    for chip in [chip for chip in root.names(HWMON) if root.line(f"{HWMON}/{chip}/name") in CPU_CHIPS]:
        for file in [file for file in root.names(f"{HWMON}/{chip}") if re.fullmatch(r"temp[0-9]{1,3}_input", file)]:
            celsius = _celsius(root, f"{HWMON}/{chip}/{file}", PLAUSIBLE_C)
            if celsius is not None:
                label = root.line(f"{HWMON}/{chip}/{file.removesuffix('_input')}_label") or file
                name = distinct(f"{root.line(f'{HWMON}/{chip}/name')} {label}", seen, chip)
                seen.add(name)
                yield name, celsius


def _cpu_trips(root: Sysroot, folder: str) -> list[float]:
    """Passive trip points of a zone at which a cooling device slows the CPU.

    Those bound to such a device; or all, when nothing is bound and the zone's name is a CPU's.
    """
    zone, names = f"{CLASS}/{folder}", root.names(f"{CLASS}/{folder}")
    types = [match[1] for name in names if (match := NUMBERED_TYPE.fullmatch(name))]
    passive = {number for number in types if root.text(f"{zone}/trip_point_{number}_type") == "passive"}
    coolers = [name for name in names if NUMBERED_COOLER.fullmatch(name)]
    if coolers:
        bound = [c for c in coolers if cools_cpu(root.line(f"{zone}/{c}/type") or "")]
        passive &= {str(root.number(f"{zone}/{cooler}_trip_point")) for cooler in bound}
    elif not CPU_ZONE.search(root.line(f"{zone}/type") or ""):
        return []
    trips = [_celsius(root, f"{zone}/trip_point_{number}_temp", PLAUSIBLE_TRIP_C) for number in passive]
    return [celsius for celsius in trips if celsius is not None]


def _celsius(root: Sysroot, file: str, plausible: tuple[float, float]) -> float | None:
    millidegrees = root.number(file)
    if millidegrees is None or not plausible[0] <= millidegrees / 1000 <= plausible[1]:
        return None
    return millidegrees / 1000

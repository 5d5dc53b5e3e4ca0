"""Temperatures, and whether the machine is slowing down because of heat or power right now."""

from edgeagent.core.hardware import Thermal
from edgeagent.resource.probes.sysroot import Sysroot

CLASS = "sys/class/thermal"
PLATFORM = "sys/devices/platform"
CPU_COOLING = ("cpufreq", "thermal-cpufreq", "Processor")
"""Cooling devices that slow the CPU (`type` in the kernel's thermal framework); fans do not count."""
PI_CAPPED, PI_THROTTLED, PI_SOFT_LIMIT = 1 << 1, 1 << 2, 1 << 3
"""Bits of `get_throttled` that hold now (raspberrypi.com/documentation/computers/os.html#get_throttled)."""


def read_thermal(root: Sysroot) -> Thermal:
    """Zones in °C. `throttled` is None where neither firmware nor a CPU cooling device tells."""
    zones: dict[str, float] = {}
    for zone in [name for name in root.names(CLASS) if name.startswith("thermal_zone")]:
        millidegrees = root.number(f"{CLASS}/{zone}/temp")
        if millidegrees is not None:
            name = root.line(f"{CLASS}/{zone}/type") or zone
            zones[f"{name}@{zone}" if name in zones else name] = millidegrees / 1000
    if not zones:
        root.note("thermal", "absent: no thermal zone can be read")
    return Thermal(zones=zones, throttled=_throttled(root))


def _throttled(root: Sysroot) -> bool | None:
    signs = [sign for sign in (_firmware(root), _cooling(root)) if sign is not None]
    return any(signs) if signs else None


def _firmware(root: Sysroot) -> bool | None:
    """Raspberry Pi: the firmware slows the cores without telling cpufreq."""
    for soc in [name for name in root.names(PLATFORM) if name.startswith("soc")]:
        for node in [name for name in root.names(f"{PLATFORM}/{soc}") if name.endswith(":firmware")]:
            text = root.text(f"{PLATFORM}/{soc}/{node}/get_throttled")
            if text is not None:
                return _bits(root, text)
    return None


def _bits(root: Sysroot, text: str) -> bool | None:
    try:
        return bool(int(text, 16) & (PI_CAPPED | PI_THROTTLED | PI_SOFT_LIMIT))
    except ValueError:
        root.note("thermal.throttled", "malformed: get_throttled is not a hexadecimal number")
        return None


def _cooling(root: Sysroot) -> bool | None:
    states = [
        root.number(f"{CLASS}/{device}/cur_state")
        for device in root.names(CLASS)
        if device.startswith("cooling_device") and (root.line(f"{CLASS}/{device}/type") or "").startswith(CPU_COOLING)
    ]
    known = [state for state in states if state is not None]
    return any(state > 0 for state in known) if known else None

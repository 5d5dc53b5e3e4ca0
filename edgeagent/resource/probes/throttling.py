"""Whether the machine is slowing down because of heat or power right now, and how often it did."""

from edgeagent.resource.probes.cores import BASE
from edgeagent.resource.probes.sysroot import Sysroot

CLASS = "sys/class/thermal"
PLATFORM = "sys/devices/platform"
HWMON = "sys/class/hwmon"
CPU_COOLING = ("cpufreq", "thermal-cpufreq", "Processor")
"""Cooling devices that slow the CPU (`type` in the kernel's thermal framework); fans do not count."""
ALERT = "-throttle-alert"
"""Jetson's cooling devices that tell of a slowed unit: `cpu-throttle-alert`, `gpu-throttle-alert`."""
PI_CAPPED, PI_THROTTLED, PI_SOFT_LIMIT = 1 << 1, 1 << 2, 1 << 3
"""Bits of `get_throttled` that hold now (raspberrypi.com/documentation/computers/os.html#get_throttled)."""
NUM_OVER_CURRENT = 3
"""Jetson Orin counts undervoltage, average and instant overcurrent (driver `tegra234-oc-event`)."""


def cools_cpu(kind: str) -> bool:
    """Whether a cooling device of this type slows the CPU, or tells that something does."""
    return kind.startswith(CPU_COOLING) or kind == f"cpu{ALERT}"


def read_throttled(root: Sysroot) -> bool | None:
    """True while firmware or a cooling device slows the machine; None where nothing tells."""
    signs = [sign for sign in (_firmware(root), _cooling(root)) if sign is not None]
    return any(signs) if signs else None


def read_throttle_count(root: Sysroot) -> int | None:
    """How often the machine was slowed since it started, to be compared with an earlier count; None: not counted.

    x86 counts heat per core (`thermal_throttle`), Jetson Orin overcurrent and undervoltage.
    """
    cores = [name for name in root.names(BASE) if name.startswith("cpu") and name[3:].isdigit()]
    files = [f"{BASE}/{core}/thermal_throttle/core_throttle_count" for core in cores]
    for chip in root.names(HWMON):
        if root.line(f"{HWMON}/{chip}/name") == "soctherm_oc":
            files += [f"{HWMON}/{chip}/oc{number}_event_cnt" for number in range(1, NUM_OVER_CURRENT + 1)]
    counts = [count for file in files if (count := root.number(file)) is not None]
    return sum(counts) if counts else None


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
    devices = [name for name in root.names(CLASS) if name.startswith("cooling_device")]
    kinds = {device: root.line(f"{CLASS}/{device}/type") or "" for device in devices}
    states = [
        root.number(f"{CLASS}/{device}/cur_state")
        for device, kind in kinds.items()
        if cools_cpu(kind) or kind.endswith(ALERT)
    ]
    known = [state for state in states if state is not None]
    return any(state > 0 for state in known) if known else None

"""Power supplies and batteries, as the kernel's power_supply class tells of them."""

from typing import NamedTuple

from edgeagent.resource.probes.sysroot import Sysroot

CLASS = "sys/class/power_supply"
NEGOTIATED = "ucsi-source"
"""USB-C sources tell what was agreed on, not what flows (Linux, `drivers/usb/typec/ucsi/psy.c`)."""


class Supply(NamedTuple):
    """`watts`: what flows from it now; None when it does not tell, or when it is a battery being charged."""

    name: str
    kind: str
    state: str
    percent: float | None
    watts: float | None


def read_supplies(root: Sysroot) -> list[Supply]:
    """What feeds the machine. A mouse's battery does not."""
    feeding = [name for name in root.names(CLASS) if root.line(f"{CLASS}/{name}/scope") != "Device"]
    return [_supply(root, name) for name in feeding]


def _supply(root: Sysroot, name: str) -> Supply:
    kind, state = root.line(f"{CLASS}/{name}/type") or "unknown", _state(root, name)
    percent = root.number(f"{CLASS}/{name}/capacity") if kind == "Battery" else None
    known = percent is not None and 0 <= percent <= 100
    gives = state == "discharging" if kind == "Battery" else not name.startswith(NEGOTIATED)
    return Supply(name, kind, state, float(percent or 0) if known else None, _watts(root, name) if gives else None)


def _state(root: Sysroot, name: str) -> str:
    if status := root.line(f"{CLASS}/{name}/status"):
        return status.lower()
    online = root.number(f"{CLASS}/{name}/online")
    return {None: "state not told", 0: "offline"}.get(online, "online")


def _watts(root: Sysroot, name: str) -> float | None:
    """Microwatts, or microvolts times microamperes, negative with some drivers (`Documentation/power`)."""
    if (power := root.number(f"{CLASS}/{name}/power_now")) is not None:
        return abs(power) / 1e6
    volts, amperes = root.number(f"{CLASS}/{name}/voltage_now"), root.number(f"{CLASS}/{name}/current_now")
    return abs(volts * amperes) / 1e12 if volts is not None and amperes is not None else None

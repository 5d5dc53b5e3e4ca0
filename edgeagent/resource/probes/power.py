"""Where power comes from and which sensors could meter it."""

from edgeagent.core.hardware import Power
from edgeagent.resource.probes.sysroot import Sysroot

SUPPLY = "sys/class/power_supply"
RAPL = "sys/class/powercap"
HWMON = "sys/class/hwmon"
METERS = ("ina3221", "ina219", "ina226", "ina238")
"""Current monitors found on boards (Jetson has an INA3221), as their hwmon drivers name them."""


def read_power(root: Sysroot) -> Power:
    """Supplies by name, energy sensors as `rapl:<zone>` and `meter:<chip>`."""
    sources: dict[str, str] = {}
    batteries: list[float] = []
    for name in root.names(SUPPLY):
        kind = root.line(f"{SUPPLY}/{name}/type") or "unknown"
        if root.line(f"{SUPPLY}/{name}/scope") == "Device":  # a mouse's battery does not feed the machine
            continue
        sources[name] = f"{kind}, {_state(root, name)}"
        charge = root.number(f"{SUPPLY}/{name}/capacity") if kind == "Battery" else None
        batteries += [float(charge)] if charge is not None and 0 <= charge <= 100 else []
    sources |= _rapl(root) | _meters(root)
    if not sources:
        root.note("power", "absent: no supply, battery or energy sensor is named")
    return Power(sources=sources, battery_percent=min(batteries, default=None))


def _state(root: Sysroot, name: str) -> str:
    if status := root.line(f"{SUPPLY}/{name}/status"):
        return status.lower()
    online = root.number(f"{SUPPLY}/{name}/online")
    return {None: "state not told", 0: "offline"}.get(online, "online")


def _rapl(root: Sysroot) -> dict[str, str]:
    """Energy counters of the CPU; since 2020 only root may read them (CVE-2020-8694)."""
    found: dict[str, str] = {}
    for zone in [name for name in root.names(RAPL) if ":" in name]:
        label = root.line(f"{RAPL}/{zone}/name") or zone
        readable = root.text(f"{RAPL}/{zone}/energy_uj") is not None
        found[f"rapl:{label}"] = "readable" if readable else root.gaps.get(f"/{RAPL}/{zone}/energy_uj", "absent")
    return found


def _meters(root: Sysroot) -> dict[str, str]:
    chips = [(chip, root.line(f"{HWMON}/{chip}/name") or "") for chip in root.names(HWMON)]
    return {f"meter:{name}": f"seen as {chip}" for chip, name in chips if name in METERS}

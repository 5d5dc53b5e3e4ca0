"""Where power comes from, how much flows, which sensors meter it, and the power mode."""

from edgeagent.core.hardware import Power
from edgeagent.resource.probes.power_modes import read_power_modes
from edgeagent.resource.probes.rails import old_jetson_meters, read_rails
from edgeagent.resource.probes.rapl import CLASS as RAPL
from edgeagent.resource.probes.rapl import rapl_zones
from edgeagent.resource.probes.supplies import read_supplies
from edgeagent.resource.probes.sysroot import Sysroot, distinct

HWMON = "sys/class/hwmon"
METERS = ("ina3221", "ina219", "ina226", "ina238")
"""Current monitors found on boards (Jetson has an INA3221), as their hwmon drivers name them."""
PI_VOLTAGE = "rpi_volt"
"""Raspberry Pi's monitor of the supply's voltage; its alarm is undervoltage (Linux, `raspberrypi-hwmon`)."""


def read_power(root: Sysroot) -> Power:
    """Supplies by name, energy counters as `rapl:<zone>`, meters as `meter:<chip>`; draws of rails and supplies."""
    supplies = read_supplies(root)
    sources = {supply.name: f"{supply.kind}, {supply.state}" for supply in supplies} | _rapl(root) | _monitors(root)
    if not sources:
        root.note("power", "absent: no supply, battery or energy sensor is named")
    rails = read_rails(root)
    draw = {supply.name: supply.watts for supply in supplies if supply.watts is not None} | rails
    if not draw:
        root.note("power.draw_w", "absent: no sensor tells watts by itself")
    modes = read_power_modes(root)
    return Power(
        sources=sources,
        battery_percent=min((s.percent for s in supplies if s.percent is not None), default=None),
        draw_w=draw,
        mode=modes.mode,
        modes=modes.modes,
    )


def _rapl(root: Sysroot) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, folder in rapl_zones(root).items():
        file = f"{RAPL}/{folder}/energy_uj"
        found[f"rapl:{name}"] = "readable" if root.text(file) is not None else root.because(file, "absent")
    return found


def _monitors(root: Sysroot) -> dict[str, str]:
    found = {f"meter:ina3221x@{address}": f"seen as {address}" for address in old_jetson_meters(root)}
    for chip in root.names(HWMON):
        name = root.line(f"{HWMON}/{chip}/name")
        if name in METERS:
            found[distinct(f"meter:{name}", found, chip)] = f"seen as {chip}"
        elif name == PI_VOLTAGE:
            alarm = root.number(f"{HWMON}/{chip}/in0_lcrit_alarm")
            found[PI_VOLTAGE] = {None: "state not told", 0: "voltage is fine"}.get(alarm, "undervoltage now")
    return found

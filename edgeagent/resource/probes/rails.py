"""Power meters on boards: which rail draws how many watts now."""

import re
from collections.abc import Iterator

from edgeagent.resource.probes.sysroot import Sysroot, distinct

HWMON = "sys/class/hwmon"
OLD_JETSON = "sys/bus/i2c/drivers/ina3221x"
"""JetPack 4 shows its INA3221 as an industrial I/O device, with millivolts, milliamperes and milliwatts."""
NOT_CONNECTED = {"NC", ""}
CURRENT = re.compile(r"curr([0-9]{1,3})_input")
POWER = re.compile(r"power([0-9]{1,3})_(?:input|average)")
ADDRESS = re.compile(r"[0-9]{1,3}-[0-9a-f]{4}")
RAIL = re.compile(r"rail_name_([0-9]{1,2})")

Reading = tuple[str, str, float]
"""Where it was read, the rail, watts."""


def read_rails(root: Sysroot) -> dict[str, float]:
    """Rail (`VDD_IN`, or `chip label`) to watts. Only what a sensor measures, no sums and nothing estimated."""
    rails: dict[str, float] = {}
    for place, name, watts in (*_monitors(root), *_old_jetson(root)):
        rails[distinct(name, rails, place)] = watts
    return rails


def old_jetson_meters(root: Sysroot) -> list[str]:
    """Addresses (`6-0040`) of the meters that JetPack 4 shows."""
    return [name for name in root.names(OLD_JETSON) if ADDRESS.fullmatch(name)]


def _monitors(root: Sysroot) -> Iterator[Reading]:
    """Units: Linux, `Documentation/hwmon/sysfs-interface.rst` (mV, mA, µW)."""
    for chip in root.names(HWMON):
        folder = f"{HWMON}/{chip}"
        names, chip_name = root.names(folder), root.line(f"{HWMON}/{chip}/name") or chip
        powers = {match[1]: name for name in names if (match := POWER.fullmatch(name))}
        for number, file in powers.items():
            if (microwatts := root.number(f"{folder}/{file}")) is not None and microwatts >= 0:
                label = root.line(f"{folder}/power{number}_label")
                yield chip, f"{chip_name} {label or number}", microwatts / 1e6
        for number in [match[1] for name in names if not powers and (match := CURRENT.fullmatch(name))]:
            yield from _channel(root, chip, chip_name, number)


def _channel(root: Sysroot, chip: str, chip_name: str, number: str) -> Iterator[Reading]:
    """An INA3221 channel: the driver tells volts and amperes, their product is ours."""
    folder = f"{HWMON}/{chip}"
    label = root.line(f"{folder}/in{number}_label")
    if label in NOT_CONNECTED:
        return
    millivolts = root.number(f"{folder}/in{number}_input")
    milliamperes = root.number(f"{folder}/curr{number}_input")
    if millivolts is not None and milliamperes is not None:
        yield chip, label or f"{chip_name} {number}", abs(millivolts * milliamperes) / 1e6


def _old_jetson(root: Sysroot) -> Iterator[Reading]:
    for address in old_jetson_meters(root):
        for device in [d for d in root.names(f"{OLD_JETSON}/{address}") if d.startswith(("iio:device", "iio_device"))]:
            folder = f"{OLD_JETSON}/{address}/{device}"
            for number in [match[1] for name in root.names(folder) if (match := RAIL.fullmatch(name))]:
                label = root.line(f"{folder}/rail_name_{number}") or ""
                milliwatts = root.number(f"{folder}/in_power{number}_input")
                if label not in NOT_CONNECTED and milliwatts is not None and milliwatts >= 0:
                    yield address, label, milliwatts / 1e3

"""Devices on PCI by their numbers."""

from collections.abc import Iterator
from typing import NamedTuple

from edgeagent.resource.probes.sysroot import Sysroot

DEVICES = "sys/bus/pci/devices"


class PciDevice(NamedTuple):
    """`device_class` is base class, subclass and interface: 0x030000 is a VGA controller."""

    slot: str
    vendor: int
    device: int
    device_class: int
    driver: str | None


def pci_devices(root: Sysroot) -> Iterator[PciDevice]:
    """Every device that tells its numbers."""
    for slot in root.names(DEVICES):
        folder = f"{DEVICES}/{slot}"
        vendor, device = (_hex(root, f"{folder}/{name}") for name in ("vendor", "device"))
        if vendor is not None and device is not None:
            driver = root.fields(f"{folder}/uevent").get("DRIVER")
            yield PciDevice(slot, vendor, device, _hex(root, f"{folder}/class") or 0, driver)


def _hex(root: Sysroot, file: str) -> int | None:
    try:
        return int((root.text(file) or "")[:16], 16)
    except ValueError:
        return None

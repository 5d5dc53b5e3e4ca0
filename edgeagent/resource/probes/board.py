"""The board's name: from the device tree (Arm boards) or DMI (PCs and servers)."""

from edgeagent.resource.probes.sysroot import Sysroot

DEVICE_TREE = ("sys/firmware/devicetree/base/model", "proc/device-tree/model")
DMI = "sys/class/dmi/id"
PLACEHOLDERS = {"to be filled by o.e.m.", "default string", "system product name", "system manufacturer", "none"}
"""What vendors leave in DMI fields they did not fill."""


def read_board(root: Sysroot) -> str:
    """`Raspberry Pi 5 Model B Rev 1.0`, `QEMU Standard PC (Q35 + ICH9, 2009)`; `unknown` and a gap without either."""
    for name in DEVICE_TREE:
        if model := root.line(name):
            return model
    named = [root.line(f"{DMI}/{field}") or "" for field in ("sys_vendor", "product_name")]
    real = [name for name in named if name and name.lower() not in PLACEHOLDERS]
    if not real:
        root.note("board", "absent: neither a device tree nor DMI names it")
        return "unknown"
    return " ".join(dict.fromkeys(real))

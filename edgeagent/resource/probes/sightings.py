"""An accelerator that the kernel shows, and why it cannot be used. Seen is not usable: that takes a runtime."""

import re

from edgeagent.core.hardware import Accelerator
from edgeagent.resource.probes.sysroot import Sysroot

NO_RUNTIME = "no runtime for it in this version"
NO_DRIVER = "no driver is bound to it"


def seen(
    root: Sysroot,
    kind: str,
    name: str,
    runtime: str,
    device: str = "",
    *,
    driver: str | None = None,
    memory_bytes: int | None = None,
    obstacle: str = "",
) -> Accelerator:
    """`device` is the node that its runtime opens, `obstacle` what else is in the way."""
    if device and not root.exists(device):
        obstacle = f"/{device} is absent"
    elif device and not root.may_use(device):
        obstacle = f"/{device} is denied to this user"
    facts = {"kind": kind, "name": name, "runtime": runtime, "driver": driver, "memory_bytes": memory_bytes}
    why = f"{obstacle}; {NO_RUNTIME}" if obstacle else NO_RUNTIME
    return Accelerator.model_validate({**facts, "usable": False, "why": why})


def driver_of(root: Sysroot, device: str) -> str | None:
    """The driver bound to a device folder of sysfs."""
    name = root.fields(f"{device}/uevent").get("DRIVER", "")
    return name[:80] if name and name.isprintable() else None


def nodes(root: Sysroot, pattern: str) -> list[str]:
    """Names in /dev that match as a whole."""
    return [name for name in root.names("dev") if re.fullmatch(pattern, name)]


def compatible(root: Sysroot, node: str = "sys/firmware/devicetree/base") -> list[str]:
    """What a device tree node is compatible with; the root names board and system on chip."""
    return root.strings(f"{node}/compatible") or (root.strings("proc/device-tree/compatible") if "base" in node else [])

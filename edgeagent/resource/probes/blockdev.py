"""What kind of device a block device is, through partitions, mappings, arrays and loop files down to the hardware."""

from edgeagent.resource.probes.sysroot import Sysroot

BLOCK = "sys/block"
MAX_DEPTH = 8
USB_ROTATIONAL = "absent: USB bridges report flash as rotational too"
VIRTUAL = "absent: a virtual disk does not tell what it is made of"
BY_NAME = {"zram": "memory", "ram": "memory", "nbd": "network", "rbd": "network"}
NETWORK_TRANSPORTS = {"tcp", "rdma", "fc"}
SD_CARD_TYPES = {"SD": "sd", "SDcombo": "sd", "MMC": "emmc"}
"""`type` of a device on an MMC bus (Linux, `Documentation/driver-api/mmc/mmc-dev-attrs.rst`)."""


def find_disk(root: Sysroot, number: str, source: str) -> str | None:
    """The whole disk (`mmcblk0`) of a mount's device number (`179:2`), or else of its source (`/dev/mmcblk0p2`).

    Source and number each fail somewhere: `/dev/root` names nothing, btrfs has a number of its own.
    """
    disks = root.names(BLOCK)
    if not number.startswith("0:"):
        for disk in disks:
            if number in _numbers(root, disk):
                return disk
    name = source.removeprefix("/dev/").removeprefix("mapper/")
    for disk in disks:
        if name == disk or _is_partition(disk, name) or name == root.line(f"{BLOCK}/{disk}/dm/name"):
            return disk
    return None


def disk_kind(root: Sysroot, disk: str, depth: int = 0) -> tuple[str | None, str]:
    """Kind and, where there is none, why."""
    if depth > MAX_DEPTH:
        return None, "malformed: its devices rest on each other in a circle"
    below = root.names(f"{BLOCK}/{disk}/slaves")
    if below:
        return _common(root, [_parent(root, name) for name in below], depth)
    if (kind := BY_NAME.get(disk.rstrip("0123456789"))) is not None:
        return kind, ""
    if disk.startswith("mmcblk"):
        card = SD_CARD_TYPES.get(root.line(f"{BLOCK}/{disk}/device/type") or "")
        return card, "absent: the card's `type` is not told"
    if disk.startswith("nvme"):
        transport = root.line(f"{BLOCK}/{disk}/device/transport")
        return ("network" if transport in NETWORK_TRANSPORTS else "nvme"), ""
    return _scsi_kind(root, disk)


def _scsi_kind(root: Sysroot, disk: str) -> tuple[str | None, str]:
    if disk.startswith(("vd", "xvd")):
        return None, VIRTUAL
    place, rotational = root.real(f"{BLOCK}/{disk}") or "", root.number(f"{BLOCK}/{disk}/queue/rotational")
    if "/session" in place:  # iSCSI
        return "network", ""
    if rotational == 0:
        return "ssd", ""
    if rotational != 1:
        return None, root.because(f"{BLOCK}/{disk}/queue/rotational", "absent: the disk does not tell if it turns")
    if "/virtio" in place or "QEMU" in (root.line(f"{BLOCK}/{disk}/device/vendor") or ""):
        return None, VIRTUAL
    if "/usb" in place or root.number(f"{BLOCK}/{disk}/removable") == 1:
        return None, USB_ROTATIONAL
    return "disk", ""


def _common(root: Sysroot, disks: list[str], depth: int) -> tuple[str | None, str]:
    """The kind that all devices under a mapping or an array have."""
    kinds = [disk_kind(root, disk, depth + 1) for disk in disks[:64]]
    if len({kind for kind, _ in kinds}) == 1:
        return kinds[0]
    return None, "absent: it lies on devices of several kinds"


def _numbers(root: Sysroot, disk: str) -> set[str]:
    parts = [name for name in root.names(f"{BLOCK}/{disk}") if _is_partition(disk, name)]
    files = [f"{BLOCK}/{disk}/dev", *(f"{BLOCK}/{disk}/{part}/dev" for part in parts)]
    return {number for file in files if (number := root.line(file))}


def _parent(root: Sysroot, name: str) -> str:
    """The disk a partition is on; a disk is its own."""
    return next((disk for disk in root.names(BLOCK) if _is_partition(disk, name)), name)


def _is_partition(disk: str, name: str) -> bool:
    """`sda1` of `sda`, `nvme0n1p2` of `nvme0n1`."""
    rest = name.removeprefix(f"{disk}p" if disk[-1:].isdigit() else disk)
    return rest != name and rest.isascii() and rest.isdigit()

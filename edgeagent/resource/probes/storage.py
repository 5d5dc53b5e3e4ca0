"""Room for models and memories, and what kind of device holds them."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from edgeagent.core.hardware import Storage
from edgeagent.resource.probes.blockdev import BLOCK, disk_kind, find_disk
from edgeagent.resource.probes.sysroot import Sysroot

MOUNTS = "proc/self/mountinfo"
ESCAPE = re.compile(r"\\([0-7]{3})")
MEMORY = {"tmpfs", "ramfs", "devtmpfs", "rootfs", "hugetlbfs"}
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "afs", "fuse.sshfs", "fuse.glusterfs"}
HOST = {"9p", "virtiofs", "vboxsf", "fuse.vmhgfs-fuse", "drvfs"}
"""File systems that a virtual machine's host lends."""
MAX_HOPS = 4
"""A loop file or an overlay leads to another file system; so many of them on each other are followed."""


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo (proc_pid_mountinfo(5)). `upper` is where an overlay keeps what is written."""

    number: str
    point: str
    kind: str
    source: str
    upper: str


def read_storage(root: Sysroot, state: Path) -> Storage:
    """The file system that holds, or will hold, the state folder: bytes free for this user, kind of its device."""
    folder = root.path / state.relative_to("/") if state.is_absolute() else root.path / state
    free = _free_bytes(folder)
    if free is None:
        root.note("storage", f"denied: the file system of {state} cannot be asked")
    kind, why = _kind(root, _mounts(root), str(state), MAX_HOPS)
    if kind is None:
        root.note("storage.kind", why)
    return Storage(path=str(state), free_bytes=free or 0, kind=kind)


def _kind(root: Sysroot, mounts: list[Mount], path: str, hops: int) -> tuple[str | None, str]:
    """Kind of the device under a path and, where there is none, why."""
    mount = _mount_of(mounts, f"/{root.real(path.lstrip('/')) or path.lstrip('/')}")
    if mount is None or not hops:
        return None, root.because(MOUNTS, "absent: no mount is told for it")
    if mount.kind in MEMORY:
        return "memory", ""
    if mount.kind in NETWORK:
        return "network", ""
    if mount.kind in HOST:
        return None, f"absent: it is on the host of this virtual machine ({mount.kind})"
    if mount.kind == "overlay":
        return _overlay_kind(root, mounts, mount, hops)
    return _device_kind(root, mounts, mount, hops)


def _overlay_kind(root: Sysroot, mounts: list[Mount], mount: Mount, hops: int) -> tuple[str | None, str]:
    """An overlay writes to its upper folder. A container cannot see that one, and would look into itself."""
    if not mount.upper or _mount_of(mounts, mount.upper) in {None, mount}:
        return None, "absent: an overlay hides the device (a container)"
    return _kind(root, mounts, mount.upper, hops - 1)


def _device_kind(root: Sysroot, mounts: list[Mount], mount: Mount, hops: int) -> tuple[str | None, str]:
    disk = find_disk(root, mount.number, mount.source)
    if disk is None:
        return None, f"absent: {_printable(mount.source)} ({_printable(mount.kind)}) is no block device that is told"
    if disk.startswith("loop"):
        file = root.line(f"{BLOCK}/{disk}/loop/backing_file")
        return _kind(root, mounts, file, hops - 1) if file else (None, "absent: a loop device's file is not told")
    return disk_kind(root, disk)


def _mounts(root: Sysroot) -> list[Mount]:
    found: list[Mount] = []
    for line in root.lines(MOUNTS):
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) >= 5 and len(after) >= 2:
            options = dict(option.partition("=")[::2] for option in (after[2] if len(after) > 2 else "").split(","))
            point, upper = _unescaped(before[4]), _unescaped(options.get("upperdir", ""))
            found.append(Mount(before[2], point, after[0], _unescaped(after[1]), upper))
    return found


def _mount_of(mounts: list[Mount], path: str) -> Mount | None:
    """The deepest mount above a path; of several at one point, the last one covers the others."""
    above = [m for m in mounts if path == m.point or path.startswith(m.point.rstrip("/") + "/")]
    return max(reversed(above), key=lambda m: len(m.point), default=None)


def _unescaped(text: str) -> str:
    return ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80]


def _free_bytes(folder: Path) -> int | None:
    for place in (folder, *folder.parents):
        try:
            facts = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
        return facts.f_bavail * facts.f_frsize
    return None

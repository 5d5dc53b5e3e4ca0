"""Where the control groups of this process keep a controller's limits (cgroup v1, v2 and the hybrid of both)."""

from edgeagent.resource.probes.sysroot import Sysroot

MOUNT = "sys/fs/cgroup"
MAX_LINES = 64
MAX_DEPTH = 32
"""More groups, or deeper ones, than any real process is in: a hostile capture is cut here."""


def group_folders(root: Sysroot, controller: str) -> list[str]:
    """Folders of the process's group and of every group above it: a limit anywhere on the way up counts."""
    folders: list[str] = []
    for line in root.lines("proc/self/cgroup")[:MAX_LINES]:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            folders += _upwards(MOUNT, group) + _upwards(f"{MOUNT}/unified", group)
        elif controller in controllers.split(","):
            folders += _upwards(f"{MOUNT}/{controllers}", group) + _upwards(f"{MOUNT}/{controller}", group)
    return list(dict.fromkeys(folders))


def _upwards(mount: str, group: str) -> list[str]:
    parts = [part for part in group.split("/") if part]
    if ".." in parts:  # the group lies outside our cgroup namespace: only the namespace's root can be seen
        parts = []
    return ["/".join([mount, *parts[:depth]]) for depth in range(min(len(parts), MAX_DEPTH), -1, -1)]

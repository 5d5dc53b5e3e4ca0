"""Room for models and memories."""

import os
from pathlib import Path

from edgeagent.core.hardware import Storage
from edgeagent.resource.probes.sysroot import Sysroot


def read_storage(root: Sysroot, state: Path) -> Storage:
    """Bytes free for this user on the file system that holds, or will hold, the state folder."""
    folder = root.path / state.relative_to("/") if state.is_absolute() else root.path / state
    free = _free_bytes(folder)
    if free is None:
        root.note("storage", f"denied: the file system of {state} cannot be asked")
    return Storage(path=str(state), free_bytes=free or 0)


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

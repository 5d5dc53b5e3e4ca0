"""A new memory file has a name that survives power loss: every folder that was made for it is synced in its parent."""

import os
from pathlib import Path

import pytest

from edgeagent.agent.memory.store import MemoryStore


def test_folders_made_for_the_file_are_synced_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    path = tmp_path / "one" / "two" / "memory.sqlite"
    MemoryStore.open(path, 64).close()
    assert set(synced) == {path.parent, path.parent.parent, tmp_path}
    synced.clear()
    MemoryStore.open(path, 64).close()
    assert synced == []

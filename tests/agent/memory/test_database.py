"""A new memory file has a name that survives power loss, and several may make it at the same time."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeagent.agent.memory.database import open_database
from edgeagent.agent.memory.schema import VERSION
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


def test_several_that_make_one_file_at_the_same_time_all_open_it(tmp_path: Path) -> None:
    """SQLite lets one of two that would wait for each other fail at once: 5 % of such openings, tried once."""

    def opened(path: Path, start: threading.Barrier) -> int:
        start.wait()
        connection = open_database(path, 4)
        try:
            return int(connection.pragma("user_version"))
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as threads:
        for number in range(40):
            start = threading.Barrier(3)
            calls = [threads.submit(opened, tmp_path / f"{number}.sqlite", start) for _ in range(3)]
            assert {call.result() for call in calls} == {VERSION}

"""A writer that is killed at any time leaves what it had persisted, and nothing that is wrong."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeagent.execution.kvstore.store import KvLimits, KvStore
from tests.execution.kvstore.rows import matched
from tests.execution.kvstore.writer import KEY, PLANES

ROOT = Path(__file__).parents[3]


def fill_and_kill(folder: Path, seed: int, delay_s: float) -> list[list[int]]:
    """The paths that a writer said it had persisted before it was killed, `delay_s` after it said so first."""
    command = [sys.executable, "-m", "tests.execution.kvstore.writer", str(folder), str(seed)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
    return [[int(symbol) for symbol in line.split()] for line in lines if line.endswith(b"\n")]


def check_kills(folder: Path, seeds: range) -> None:
    persisted: list[list[int]] = []
    for seed in seeds:
        persisted += fill_and_kill(folder, seed, random.Random(seed).uniform(0, 0.15))
        store = KvStore(folder, KvLimits(2**26, 2**30), time.time)
        assert store.covered(KEY, []) == 0  # looks at the folder
        assert not list(folder.glob("*.new"))
        assert [store.covered(KEY, path) for path in persisted] == [len(path) for path in persisted]
        assert [matched(store, KEY, path, PLANES) for path in persisted[-5:]] == [len(path) for path in persisted[-5:]]
        assert store.stats().num_damaged == 0
        store.close()
    assert len(persisted) > len(seeds)


def test_killed_writer_leaves_what_it_had_persisted(tmp_path: Path) -> None:
    check_kills(tmp_path / "kv", range(2))


@pytest.mark.long
def test_writer_killed_many_times_leaves_what_it_had_persisted(tmp_path: Path) -> None:
    check_kills(tmp_path / "kv", range(2, 62))

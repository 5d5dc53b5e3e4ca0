"""The daemon as a process: what it says when it is up, and what SIGHUP reloads."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.other_engines import other_release

ROOT = Path(__file__).parent.parent
PATIENCE_S = 30.0


def wait_for(text: str, log: Path) -> str:
    """The line with it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := [line for line in log.read_text().splitlines() if text in line]):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return found[0]


@contextlib.contextmanager
def serving(state: Path, folder: Path, config: Path, path: str = str(ROOT)) -> Iterator[subprocess.Popen[bytes]]:
    """`edgeagent serve` with these settings, its log in `folder`."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "PYTHONPATH": path}
    command = [sys.executable, "-m", "edgeagent", "serve", "--config", str(config)]
    with (folder / "log").open("wb") as output:
        daemon = subprocess.Popen(command, env=env | {"EDGEAGENT_STATE": str(state)}, stderr=output)
    try:
        yield daemon
    finally:
        daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0


def test_reload_reads_the_file_that_serve_was_started_with(state_dir: Path, tmp_path: Path) -> None:
    config, log = tmp_path / "own.toml", tmp_path / "log"
    config.write_text("[http]\nport = 0\n")
    with serving(state_dir, tmp_path, config) as daemon:
        wait_for('event="daemon ready"', log)
        config.write_text('[http]\nport = 0\n[policy]\nobjective = "quality"\n')
        daemon.send_signal(signal.SIGHUP)
        assert "needs_restart=policy" in wait_for("settings reloaded", log)


def test_engine_of_an_unknown_release_is_a_warning_at_start(state_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text("[http]\nport = 0\n")
    with serving(state_dir, tmp_path, config, f"{other_release(tmp_path)}{os.pathsep}{ROOT}"):
        line = wait_for('event="daemon ready"', tmp_path / "log")
        assert "level=warning" in line
        assert "llama-cpp-python 0.3.28 is installed here" in line

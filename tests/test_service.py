"""The daemon as a process: what SIGHUP reloads."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE_S = 30.0


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_reload_reads_the_file_that_serve_was_started_with(state_dir: Path, tmp_path: Path) -> None:
    config, log = tmp_path / "own.toml", tmp_path / "log"
    config.write_text("[http]\nport = 0\n")
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "edgeagent", "serve", "--config", str(config)]
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, env=env | {"EDGEAGENT_STATE": str(state_dir)}, stderr=output)
    try:
        wait_for('event="daemon ready"', log)
        config.write_text('[http]\nport = 0\n[policy]\nobjective = "quality"\n')
        daemon.send_signal(signal.SIGHUP)
        wait_for("settings reloaded", log)
        assert "needs_restart=policy" in log.read_text()
    finally:
        daemon.terminate()
    assert daemon.wait(PATIENCE_S) == 0

"""`edgeagent peer --pair` and `edgeagent fleet pair` in processes of their own, over a real broker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Mosquitto


def started(state: Path, broker: Mosquitto, *arguments: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HOME": str(state), "EDGEAGENT_STATE": str(state), "EDGEAGENT__MQTT__URL": broker.url}
    command = [sys.executable, "-m", "edgeagent", *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def code_shown_by(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().split()[-1]


@pytest.mark.long
def test_code_shown_here_and_typed_there_makes_a_fleet(mosquitto: Mosquitto, tmp_path: Path) -> None:
    garage = started(tmp_path / "garage", mosquitto, "peer", "--pair", "--json")
    code = code_shown_by(garage)
    kitchen = started(tmp_path / "kitchen", mosquitto, "fleet", "pair", code, "--name", "kitchen", "--json")
    told, _ = kitchen.communicate(timeout=60)
    joined, enrolled = json.loads(told), json.loads(garage.communicate(timeout=60)[0])
    assert (kitchen.returncode, garage.returncode) == (0, 0)
    assert (enrolled["name"], enrolled["id"]) == ("kitchen", joined["id"])
    status, _ = started(tmp_path / "garage", mosquitto, "fleet", "status", "--json").communicate(timeout=60)
    assert json.loads(status)["fleet"]["fleet"] == joined["fleet"]
    assert (tmp_path / "kitchen/device_id").read_text() == "kitchen"


def test_mistyped_code_is_told_before_anything_is_sent(tmp_path: Path, mosquitto: Mosquitto) -> None:
    process = started(tmp_path, mosquitto, "fleet", "pair", "1234-5678")
    assert "type what the peer shows" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert not (tmp_path / "trust").exists()

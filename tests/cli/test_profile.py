"""`profile` and `doctor` as commands: captured machines, this machine, and what is said of what is wrong."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeagent.core.hardware import Profile
from edgeagent.resource.calibration import Instruments
from edgeagent.resource.profile import Places, ensure_profile
from tests.conftest import ROOT

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def profile_without_a_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is measured here while there is no model, measured once."""
    folder = tmp_path_factory.mktemp("profile")
    places = Places(folder, folder / "profile.json", ROOT / "hwprofiles")
    asyncio.run(ensure_profile(places, None, refresh=False, instruments=Instruments(time.monotonic)))
    return places.cache


@pytest.fixture
def measured_before(profile_without_a_model: Path, state_dir: Path) -> None:
    shutil.copy(profile_without_a_model, state_dir / "profile.json")


def checks(shown: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(shown.stdout)["checks"]}


def test_captured_machine_is_one_json_document_and_leaves_no_trace(
    edgeagent: Cli, tmp_path: Path, state_dir: Path
) -> None:
    (tmp_path / "pi/proc").mkdir(parents=True)
    (tmp_path / "pi/proc/meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n")
    shown = edgeagent("profile", "--sysroot", str(tmp_path / "pi"), "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    profile = Profile.model_validate_json(shown.stdout)
    assert profile.memory.total_bytes == 4 * 2**30
    assert (profile.cpu.model, profile.engines, profile.rates) == ("unknown", (), {})
    assert list(state_dir.iterdir()) == []


def test_captured_machine_for_people_names_what_is_not_known(edgeagent: Cli, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    shown = edgeagent("profile", "--sysroot", str(tmp_path / "nothing"))
    assert shown.returncode == 0
    assert "not known    cpu: absent" in shown.stdout


@pytest.mark.parametrize("arguments", [["--sysroot", "/nonexistent"], ["--sysroot", "/", "--refresh"]])
def test_sysroot_that_makes_no_sense_is_bad_usage(edgeagent: Cli, arguments: list[str]) -> None:
    refused = edgeagent("profile", *arguments)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1


def test_this_machine_without_a_model_is_measured_once(edgeagent: Cli, state_dir: Path) -> None:
    first = edgeagent("profile", "--json")
    second = edgeagent("profile", "--json")
    assert "measuring" in first.stderr
    assert second.stderr == ""
    before, after = (Profile.model_validate_json(shown.stdout) for shown in (first, second))
    assert before.memory.bandwidth_bytes_s == after.memory.bandwidth_bytes_s
    assert before.engines[0].probe.verdict == "untested"
    assert (state_dir / "profile.json").is_file()


def test_state_folder_that_cannot_be_is_one_line(edgeagent: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = edgeagent("profile", env={"EDGEAGENT_STATE": str(tmp_path / "file/state")})
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: the profile cannot be kept as ")


def test_doctor_without_models_warns_and_says_what_to_do(edgeagent: Cli) -> None:
    shown = edgeagent("doctor", "--json", env={"EDGEAGENT__HTTP__PORT": "0"})
    found = checks(shown)
    assert {name for name, check in found.items() if check["status"] == "fail"} == set()
    assert shown.returncode == 0
    assert "models pull smollm2-135m-instruct" in found["model"]["todo"]
    assert found["engine"]["status"] == "warn"
    assert found["database"]["status"] == "ok"


@pytest.mark.usefixtures("measured_before")
def test_doctor_port_in_use_fails_and_names_the_setting(edgeagent: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shown = edgeagent("doctor", "--json", env={"EDGEAGENT__HTTP__PORT": str(port)})
    assert shown.returncode == 1
    assert checks(shown)["port"]["status"] == "fail"
    assert "http.port" in checks(shown)["port"]["todo"]


@pytest.mark.usefixtures("measured_before")
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mqtt://192.0.2.1:1883", "not on this machine, and this one is in no fleet"),
        ("mqtt://127.0.0.1:1", "127.0.0.1:1 is not reachable"),
        ("nonsense", "not an address"),
        ("mqtt://127.0.0.1:99999", "not an address"),
    ],
)
def test_doctor_broker_that_cannot_be_used_fails(edgeagent: Cli, url: str, reason: str) -> None:
    shown = edgeagent("doctor", "--json", env={"EDGEAGENT__MQTT__URL": url, "EDGEAGENT__HTTP__PORT": "0"})
    assert shown.returncode == 1
    assert reason in checks(shown)["broker"]["reason"]


def test_doctor_bad_settings_fail_and_the_machine_is_still_checked(edgeagent: Cli) -> None:
    shown = edgeagent("doctor", env={"EDGEAGENT__HTTP__PROT": "1"})
    assert shown.returncode == 1
    assert "fail  config    environment: unknown key 'http.prot'; did you mean 'http.port'?" in shown.stdout
    assert "ok    system" in shown.stdout


def test_doctor_unknown_default_model_fails_by_name(edgeagent: Cli) -> None:
    shown = edgeagent("doctor", "--json", env={"EDGEAGENT__MODELS__DEFAULT": "smolm"})
    assert shown.returncode == 1
    assert "smolm" in checks(shown)["model"]["reason"]


@pytest.mark.usefixtures("measured_before")
def test_doctor_off_loopback_without_tokens_fails(edgeagent: Cli) -> None:
    shown = edgeagent("doctor", "--json", env={"EDGEAGENT__HTTP__HOST": "0.0.0.0"})
    assert shown.returncode == 1
    assert checks(shown)["port"]["todo"] == "set http.tokens"

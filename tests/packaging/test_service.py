"""The unit files: accepted by systemd's own checker, and saying what the daemon relies on."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"
UNITS = ("edgeagent.service", "edgeagent-peer.service")
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="no systemd-analyze here")


def settings(unit: str) -> dict[str, list[str]]:
    """Every `key=value` of a unit file; a key may repeat."""
    found: dict[str, list[str]] = {}
    for line in (PACKAGING / unit).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_clean_for_systemd_analyze(unit: str, tmp_path: Path) -> None:
    # The checker wants the program to exist; here any program stands where the installed one will.
    text = (PACKAGING / unit).read_text().replace("/opt/edgeagent/bin/edgeagent", sys.executable)
    (tmp_path / unit).write_text(text)
    assert SYSTEMD_ANALYZE
    checked = subprocess.run(
        [SYSTEMD_ANALYZE, "verify", "--man=no", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert unit not in checked.stderr
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_unit_watches_a_daemon_that_reports_itself(unit: str) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"]
    assert int(found["WatchdogSec"][0]) > 0
    assert found["Restart"] == ["on-failure"]
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("unit", UNITS)
def test_unit_state_folder_is_the_one_the_daemon_is_told(unit: str) -> None:
    found = settings(unit)
    state = f"/var/lib/{found['StateDirectory'][0]}"
    assert f"EDGEAGENT_STATE={state}" in found["Environment"]
    assert found["WorkingDirectory"] == [state]


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_unit_exposure_stays_in_systemds_ok_range(unit: str) -> None:
    assert SYSTEMD_ANALYZE
    command = [SYSTEMD_ANALYZE, "security", "--offline=true", "--no-pager", "--threshold=20", str(PACKAGING / unit)]
    rated = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout  # above 2.0 of 10 a sandbox setting was lost


def test_peer_differs_from_the_daemon_only_where_its_role_does() -> None:
    daemon, peer = (settings(unit) for unit in UNITS)
    differing = {key for key in daemon.keys() | peer.keys() if daemon.get(key) != peer.get(key)}
    assert differing == {
        "Description", "ExecStart", "StateDirectory", "Environment", "WorkingDirectory", "DeviceAllow",
        "SupplementaryGroups",
    }  # fmt: skip

"""Switching a Jetson's power mode. The board's tool is stood in for by a script: there is no Jetson here."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.model.power_mode import mode_id, switch_mode
from edgeagent.resource.probes.sysroot import Sysroot

CONFIG = "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"


@pytest.fixture
def root(tmp_path: Path) -> Sysroot:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nvpmodel.conf").write_text(CONFIG)
    return Sysroot(tmp_path)


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> Path:
    log, folder = tmp_path / "log", tmp_path / "bin"
    folder.mkdir()
    tool = folder / "nvpmodel"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho "needs root" >&2\nexit {status}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


def test_mode_is_switched_by_its_number(root: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = install(tmp_path, monkeypatch, status=0)
    assert asyncio.run(switch_mode(root, "25W")) is None
    assert log.read_text() == "-m 1\n"


def test_tool_that_fails_is_told(root: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, status=3)
    assert asyncio.run(switch_mode(root, "25W")) == "nvpmodel ended with status 3: needs root"


def test_unknown_mode_runs_nothing(root: Sysroot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = install(tmp_path, monkeypatch, status=0)
    assert mode_id(root, "50W") is None
    assert asyncio.run(switch_mode(root, "50W")) == "/etc/nvpmodel.conf names no mode 50W"
    assert not log.exists()


def test_machine_without_the_tool_is_told(root: Sysroot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asyncio.run(switch_mode(root, "25W")) == "nvpmodel is not installed"

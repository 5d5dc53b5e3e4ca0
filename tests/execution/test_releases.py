"""Releases of llama-cpp-python: which are known, and what becomes of any other."""

import asyncio
import importlib.metadata
import os
import tomllib
from pathlib import Path

import pytest

from edgeagent.core.errors import EngineError
from edgeagent.execution import releases
from edgeagent.execution.supervisor import Worker
from tests.other_engines import other_release

ROOT = Path(__file__).parents[2]


def test_release_that_is_installed_with_this_program_is_known_and_pinned() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"llama-cpp-python=={releases.PINNED}" in wanted
    assert releases.release(releases.PINNED) == releases.Release()
    assert releases.fault(importlib.metadata.version("llama-cpp-python")) == ""


def test_unknown_release_is_refused_by_name_with_what_to_do() -> None:
    with pytest.raises(
        EngineError, match=r"0\.3\.28 is installed here.*; run 'pip install llama-cpp-python==0\.3\.36'"
    ):
        releases.release("0.3.28")


def test_worker_calls_nothing_of_a_release_that_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{other_release(tmp_path)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    async def ask() -> None:
        worker = await Worker.spawn("llama")
        try:
            with pytest.raises(EngineError, match=r"llama-cpp-python 0\.3\.28 is installed here"):
                await worker.call("version", ())
            with pytest.raises(EngineError, match=r"llama-cpp-python 0\.3\.28 is installed here"):
                await worker.call("load", (), path="x", extra_buffers=False)
        finally:
            await worker.close()

    asyncio.run(ask())

"""The set-up of `.venv`, as far as it can fail before anything is installed."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def set_up(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script in an empty checkout."""
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools/setup_venv.sh", folder / "tools")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return subprocess.run(
        ["sh", str(folder / "tools/setup_venv.sh"), "dev"],
        env={"PATH": os.environ.get("PATH", os.defpath), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_machine_without_a_usable_python_gets_one_clear_line(tmp_path: Path) -> None:
    refused = set_up(tmp_path, PYTHON="python-that-is-not-here")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: no Python >= 3.11 with the venv module found; ")
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / ".venv").exists()


def test_python_that_is_too_old_counts_as_none(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # how the script's version question ends on an old one
    old.chmod(0o755)
    assert "no Python >= 3.11" in set_up(tmp_path, PYTHON=str(old)).stderr


def test_machine_without_a_compiler_is_told_before_the_build(tmp_path: Path) -> None:
    # No index, no cache and no wheels: the build is the only way left, and there is nothing to build with.
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CACHE_DIR": str(tmp_path / "cache")}
    refused = set_up(tmp_path, CC="no-such-compiler", **nothing)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: llama-cpp-python must be built and no C and C++ compiler is here; ")
    assert "installing" not in refused.stdout

"""The size check, run as `make check` runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/check_sizes.py"


def check(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(TOOL), str(root)], capture_output=True, text=True, check=False)


def write(root: Path, name: str, num_lines: int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x = 1\n" * num_lines)


def test_file_of_500_lines_passes_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path, "edgeagent/core/long.py", 500)
    checked = check(tmp_path)
    assert checked.returncode == 0
    assert "edgeagent/core/long.py has 500 lines" in checked.stdout


def test_short_files_pass_silently(tmp_path: Path) -> None:
    write(tmp_path, "edgeagent/core/short.py", 299)
    write(tmp_path, "docs/long.py", 900)
    checked = check(tmp_path)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["edgeagent/x.py", "tests/core/x.py", "tools/x.sh"])
def test_file_of_501_lines_fails(name: str, tmp_path: Path) -> None:
    write(tmp_path, name, 501)
    checked = check(tmp_path)
    assert checked.returncode == 1
    assert f"error: {name} has 501 lines" in checked.stderr


@pytest.mark.parametrize("name", ["utils.py", "helpers.py", "common.py"])
def test_file_named_after_no_responsibility_fails(name: str, tmp_path: Path) -> None:
    write(tmp_path, f"edgeagent/agent/{name}", 3)
    assert check(tmp_path).returncode == 1

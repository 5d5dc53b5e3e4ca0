"""Writers are killed at any moment: what they had acknowledged is in the file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def kills(folder: Path, number: int, *options: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.agent.memory.killing", str(folder), "--kills", str(number), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize("number", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_killed_writers_lose_and_damage_nothing(tmp_path: Path, number: int) -> None:
    counts = kills(tmp_path, number)
    assert counts["kills"] == number
    assert counts["acknowledged"] > 0
    assert (counts["lost"], counts["corrupt"]) == (0, 0)


def test_writers_that_acknowledge_too_early_are_noticed(tmp_path: Path) -> None:
    assert kills(tmp_path, 20, "--lies")["lost"] > 0

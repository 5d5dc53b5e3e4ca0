"""The committed table of what each board would get is what the cards and board profiles say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_page_is_current() -> None:
    command = [sys.executable, str(ROOT / "tools/selection_table.py"), "--check"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

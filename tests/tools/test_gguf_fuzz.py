"""Ten thousand damaged and hostile headers, as the tool judges them."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools/gguf_fuzz.py"
MAX_GROWN_MB = 192
"""Most of it is the largest hostile file itself, which the tool holds in memory: 50 MB, and as much to make it."""


def test_10000_hostile_headers_are_read_or_refused_within_little_memory() -> None:
    """The bar for each is 100 ms of CPU time. The tool judges that by its exit status, run by hand on a quiet machine:
    on a busy one, even CPU time doubles. Here a reader that no longer bounds its work shows by never ending."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "--json"], capture_output=True, text=True, check=False, timeout=600
    )
    figures = json.loads(done.stdout)["figures"]
    assert figures["unexpected"] == 0, done.stdout + done.stderr
    assert figures["accepted"] + figures["rejected"] == 10_000
    assert figures["accepted"] > 100  # not every mutation is one that shows
    assert figures["rejected"] > 5_000
    assert figures["grown_mb"] < MAX_GROWN_MB

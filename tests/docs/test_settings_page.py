"""docs/config.md lists every setting with its default, and none that is not there."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/config.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| `(.*?)` \| .+ \|$", PAGE, re.MULTILINE))

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_page_lists_every_setting_with_its_default(edgeagent: Cli, tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    lines = edgeagent("config", "show", env={"EDGEAGENT_CONFIG": str(empty)}).stdout.splitlines()
    shown = dict(line.removesuffix("  # default").split(" = ", 1) for line in lines if line.endswith("# default"))
    assert len(shown) > 30
    assert shown == ROWS

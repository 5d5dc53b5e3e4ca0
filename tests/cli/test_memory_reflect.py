"""`edgeagent memory reflect` in a process of its own, with the real models."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgeagent.agent.memory.portable import HEADER
from tests.talk import TALK

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_session_is_summed_up_once_by_the_local_model(
    edgeagent: Cli, ready_env: dict[str, str], tmp_path: Path
) -> None:
    about = {"id": "x", "user": "ann", "kind": "turn", "source": "monday", "created_at": 1e9}
    lines = [json.dumps(about | {"text": text}) for text in TALK]
    (tmp_path / "talk.jsonl").write_text("\n".join([HEADER, *lines]))
    assert edgeagent("memory", "import", str(tmp_path / "talk.jsonl"), env=ready_env).returncode == 0
    done = edgeagent("memory", "reflect", "--json", env=ready_env)
    assert done.returncode == 0, done.stderr
    [id_] = json.loads(done.stdout)["ids"]
    listed = json.loads(edgeagent("memory", "list", "--json", env=ready_env).stdout)["memories"]
    [summary] = [item for item in listed if item["id"] == id_]
    assert (summary["kind"], summary["source"]) == ("summary", "summary of monday")
    assert "valve" in summary["text"].lower() or "boiler" in summary["text"].lower()
    assert edgeagent("memory", "reflect", env=ready_env).stdout == "nothing to sum up\n"

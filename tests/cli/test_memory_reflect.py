"""`edgeagent memory reflect` in a process of its own, with the real models."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgeagent.agent.memory.portable import HEADER
from tests.conftest import free_port
from tests.talk import TALK
from tests.test_product import Program, environment, running

Cli = Callable[..., subprocess.CompletedProcess[str]]


def export_of_talk(folder: Path) -> str:
    about = {"id": "x", "user": "ann", "kind": "turn", "source": "monday", "created_at": 1e9}
    lines = [json.dumps(about | {"text": text}) for text in TALK]
    (folder / "talk.jsonl").write_text("\n".join([HEADER, *lines]))
    return str(folder / "talk.jsonl")


def test_session_is_summed_up_once_by_the_local_model(
    edgeagent: Cli, ready_env: dict[str, str], tmp_path: Path
) -> None:
    assert edgeagent("memory", "import", export_of_talk(tmp_path), env=ready_env).returncode == 0
    done = edgeagent("memory", "reflect", "--json", env=ready_env)
    assert done.returncode == 0, done.stderr
    [id_] = json.loads(done.stdout)["ids"]
    listed = json.loads(edgeagent("memory", "list", "--json", env=ready_env).stdout)["memories"]
    [summary] = [item for item in listed if item["id"] == id_]
    assert (summary["kind"], summary["source"]) == ("summary", "summary of monday")
    assert "valve" in summary["text"].lower() or "boiler" in summary["text"].lower()
    assert edgeagent("memory", "reflect", env=ready_env).stdout == "nothing to sum up\n"


def test_daemon_sums_up_the_session_of_an_agent_of_a_user(
    edgeagent: Cli, ready_env: dict[str, str], tmp_path: Path
) -> None:
    env = environment(ready_env, tmp_path, EDGEAGENT__HTTP__PORT=str(free_port()))
    whose = ("--user", "ann/cook")
    assert edgeagent("memory", "import", export_of_talk(tmp_path), *whose, env=env).returncode == 0
    with running(Program(("serve",), env, tmp_path / "daemon.log", "daemon ready")) as daemon:
        done = edgeagent("memory", "reflect", "--json", *whose, env=env)
        assert done.returncode == 0, done.stderr
        assert "/api/edge/memory/reflect" in daemon.log.read_text()
    document = json.loads(done.stdout)
    assert document["user"] == "ann/cook"
    listed = json.loads(edgeagent("memory", "list", "--kind", "summary", "--json", *whose, env=env).stdout)
    assert [item["id"] for item in listed["memories"]] == document["ids"] != []

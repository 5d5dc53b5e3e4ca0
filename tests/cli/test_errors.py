"""Bad input at the command line: one line that names the thing and what to do, exit 1, no traceback."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeagent.execution.releases import PINNED, RELEASES
from edgeagent.model.store import StoredVariant
from tests.conftest import Cli
from tests.other_engines import other_release


def refused(edgeagent: Cli, *arguments: str, **env: str) -> str:
    """The one line that a command ends with."""
    done = edgeagent(*arguments, env=env)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_unknown_key_in_the_environment_names_the_nearest(edgeagent: Cli) -> None:
    assert "did you mean 'http.port'" in refused(edgeagent, "ask", "hi", EDGEAGENT__HTTP__PRT="1")


def test_unknown_release_of_the_engine_is_one_error_for_each_who_asks(
    edgeagent: Cli, models_dir: Path, smollm2: StoredVariant, tmp_path: Path
) -> None:
    assert smollm2.path.is_relative_to(models_dir)
    told = f"llama-cpp-python 0.3.28 is installed here, and edgeagent knows {', '.join(RELEASES)}"
    env = {
        "EDGEAGENT__HTTP__PORT": "1",
        "EDGEAGENT__MODELS__DIR": str(models_dir),
        "EDGEAGENT__MEMORY__ENABLED": "false",
        "PYTHONPATH": f"{other_release(tmp_path)}{os.pathsep}{Path(__file__).parents[2]}",
    }
    assert told in refused(edgeagent, "ask", "hi", **env)
    done = edgeagent("doctor", env=env)
    (line,) = [line for line in done.stdout.splitlines() if line[6:].startswith("engine ")]
    assert (done.returncode, line) == (1, f"fail  engine    {told}; run 'pip install llama-cpp-python=={PINNED}'")


def test_unknown_key_in_a_file_names_the_file(edgeagent: Cli, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[http]\nprot = 1\n")
    line = refused(edgeagent, "serve", "--config", str(file))
    assert str(file) in line
    assert "http.port" in line


def test_missing_model_says_how_to_get_it(edgeagent: Cli) -> None:
    assert "edgeagent models pull" in refused(edgeagent, "ask", "hi", EDGEAGENT__HTTP__PORT="1")


def test_unknown_model_lists_the_known(edgeagent: Cli) -> None:
    line = refused(edgeagent, "ask", "hi", "--model", "nosuch", EDGEAGENT__HTTP__PORT="1")
    assert "smollm2-135m-instruct" in line


def test_truncated_model_file_is_refused_and_moved_aside(edgeagent: Cli, state_dir: Path) -> None:
    file = state_dir / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF" + bytes(1000))
    assert "1004 bytes" in refused(edgeagent, "ask", "hi", EDGEAGENT__HTTP__PORT="1")
    assert not file.exists()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_port_in_use_is_named(edgeagent: Cli, taken_port: int) -> None:
    line = refused(edgeagent, "serve", EDGEAGENT__HTTP__PORT=str(taken_port))
    assert f"127.0.0.1:{taken_port}" in line


@pytest.mark.parametrize("command", [("serve",), ("peer",)])
@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://x", "is not an address"),
        ("mqtt://192.0.2.1", "not on this machine"),
        ("mqtt://nosuch.invalid", "cannot be resolved"),
        ("mqtt://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_wrong_broker_address_ends_with_one_line(edgeagent: Cli, command: tuple[str, ...], url: str, told: str) -> None:
    assert told in refused(edgeagent, *command, EDGEAGENT__MQTT__URL=url, EDGEAGENT__HTTP__PORT="0")


def test_prefill_without_a_peer_says_what_to_do(edgeagent: Cli, ready_env: dict[str, str]) -> None:
    env = ready_env | {"EDGEAGENT__HTTP__PORT": "1"}
    assert "no peer offers it" in refused(edgeagent, "ask", "hi", "--plan", "prefill", **env)

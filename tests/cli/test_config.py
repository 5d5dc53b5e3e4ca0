"""`config show`: effective values, their origins, and no secret."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeagent.cli.config import masked

Cli = Callable[..., subprocess.CompletedProcess[str]]

CONFIG = """
[http]
port = 9000
tokens = { s3cret = "alice" }
[mqtt]
url = "mqtt://ann:hunter2@127.0.0.1:1883"
password = "hunter3"
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(CONFIG)
    return path


def test_origin_of_each_value_is_the_file_the_variable_or_default(edgeagent: Cli, config_file: Path) -> None:
    shown = edgeagent("config", "show", "--json", "--config", str(config_file), env={"EDGEAGENT__LOG__LEVEL": "debug"})
    settings = json.loads(shown.stdout)["settings"]
    assert settings["http.port"] == {"value": 9000, "origin": str(config_file)}
    assert settings["log.level"] == {"value": "debug", "origin": "EDGEAGENT__LOG__LEVEL"}
    assert settings["http.host"] == {"value": "127.0.0.1", "origin": "default"}


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_secrets_are_shown_nowhere(arguments: list[str], edgeagent: Cli, config_file: Path) -> None:
    env = {"EDGEAGENT_CONFIG": str(config_file), "EDGEAGENT__HTTP__TOKENS__HUNTER4": "bob"}
    shown = edgeagent("config", "show", *arguments, env=env)
    assert shown.returncode == 0
    assert "alice" in shown.stdout
    assert "bob" in shown.stdout
    for secret in ("s3cret", "hunter2", "hunter3", "hunter4"):
        assert secret not in shown.stdout.lower()


def test_empty_secret_is_shown_as_empty() -> None:
    assert masked("mqtt.password", "") == ""
    assert masked("http.tokens", {}) == {}


def test_places_follow_the_environment(edgeagent: Cli, tmp_path: Path) -> None:
    shown = edgeagent("config", "show", "--json", env={"EDGEAGENT_STATE": str(tmp_path / "elsewhere")})
    assert json.loads(shown.stdout)["places"] == {
        "state": str(tmp_path / "elsewhere"),
        "models": str(tmp_path / "elsewhere/models"),
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[http]\nprot = 1\n", "unknown key 'http.prot'; did you mean 'http.port'?"),
        ("[http\n", "cannot be read"),
        ("[http]\nport = 70000\n", "key 'http.port'"),
    ],
)
def test_bad_settings_are_one_line_and_exit_1(text: str, complaint: str, edgeagent: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    refused = edgeagent("config", "show", "--config", str(path))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert complaint in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_settings_file_that_is_missing_is_named(edgeagent: Cli) -> None:
    refused = edgeagent("config", "show", "--config", "/nonexistent.toml")
    assert refused.returncode == 1
    assert "/nonexistent.toml does not exist" in refused.stderr


def test_unknown_log_format_is_refused_before_anything_is_done(edgeagent: Cli) -> None:
    refused = edgeagent("config", "show", env={"EDGEAGENT_LOG": "xml"})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: EDGEAGENT_LOG is 'xml'; set it to text or json\n"

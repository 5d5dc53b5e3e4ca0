"""The examples in the documentation: commands exist, the marked ones run, settings and requests are valid."""

import contextlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from edgeagent.application.http.openai import WireExtension, read_chat
from edgeagent.cli.main import cli
from edgeagent.core.config import build_config
from edgeagent.core.plan import AnswerReport

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "packaging/README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = (ROOT / "docs/guide.md").read_text(encoding="utf-8")

Cli = Callable[..., subprocess.CompletedProcess[str]]


def blocks(language: str, mark: str = "") -> Iterator[str]:
    """The fenced blocks of a language on every page; with `mark`, those below that comment only."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        yield from re.findall(rf"^{mark}```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(mark: str = "") -> Iterator[list[str]]:
    """The arguments of every `edgeagent` command, whatever variables or `sudo` stand before it."""
    for line in "".join(blocks("sh", mark)).splitlines():
        if re.match(r"(\w+=\S+ )*edgeagent |.*/bin/edgeagent ", line):
            words = shlex.split(line, comments=True)
            names = [word.rpartition("/")[2] for word in words]
            place = names.index("edgeagent") if words[0] != "sudo" else words.index("/opt/edgeagent/bin/edgeagent")
            yield words[place + 1 :]


def check_usage(arguments: list[str]) -> None:
    """Raises a usage error unless the command exists and takes these arguments."""
    command: click.Command = cli
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        name, *arguments = arguments
        found = command.get_command(click.Context(command), name)
        assert found, f"there is no command '{name}'"
        command = found
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version
        command.make_context("edgeagent", list(arguments))


@pytest.mark.parametrize("arguments", list(commands()), ids=shlex.join)
def test_command_in_the_documentation_exists_with_its_options(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in arguments:
        if name.endswith((".txt", ".jsonl", ".gguf")):  # some options want their file to be there
            (tmp_path / name).touch()
    check_usage(arguments)


def test_usage_check_notices_an_option_that_is_not_there() -> None:
    with pytest.raises(click.NoSuchOption):
        check_usage(["ask", "hello", "--nonsense"])


@pytest.mark.parametrize("arguments", list(commands("<!-- runs -->\n")), ids=shlex.join)
def test_marked_command_runs(arguments: list[str], edgeagent: Cli) -> None:
    done = edgeagent(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("text", list(blocks("toml")))
def test_settings_example_is_valid(text: str) -> None:
    assert build_config(tomllib.loads(text), "example").model_fields_set


@pytest.mark.parametrize("body", re.findall(r"-d '(\{.*?\})'\n", "".join(blocks("sh")), re.DOTALL))
def test_request_example_is_valid(body: str) -> None:
    assert read_chat(body.encode(), draw_seed=lambda: 0).request.messages


@pytest.mark.parametrize("source", list(blocks("python")))
def test_python_example_compiles(source: str) -> None:
    compile(source, "example", "exec")


def section(heading: str) -> str:
    return GUIDE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("key", list(AnswerReport.model_fields))
def test_every_key_of_a_report_is_in_the_guide(key: str) -> None:
    assert f"`{key}`" in section("What an answer reports")


@pytest.mark.parametrize("key", list(WireExtension.model_fields))
def test_every_key_of_a_request_is_in_the_guide(key: str) -> None:
    assert f"`{key}`" in section("OpenAI clients")

"""The command's edge: every way to fail is one line and the right exit status."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from edgeagent import __version__
from edgeagent.__main__ import run
from edgeagent.cli.main import COMMANDS, LazyCommand
from edgeagent.cli.options import run as run_async
from edgeagent.core.errors import EdgeAgentError, PeerLostError

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_version_is_one_line(edgeagent: Cli) -> None:
    shown = edgeagent("--version")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"edgeagent {__version__}\n", "")


def test_help_names_every_command(edgeagent: Cli) -> None:
    shown = edgeagent("--help")
    assert shown.returncode == 0
    assert all(f"  {name} " in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["mdels"], "error: No such command 'mdels'"),
        (["--nonsense"], "error: No such option '--nonsense'"),
        (["config", "shwo"], "error: No such command 'shwo'"),
        (["config", "show", "--jsn"], "error: No such option '--jsn'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments: list[str], complaint: str, edgeagent: Cli) -> None:
    refused = edgeagent(*arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith(complaint)
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stdout == ""


def test_no_command_shows_help_and_is_bad_usage(edgeagent: Cli) -> None:
    shown = edgeagent()
    assert shown.returncode == 2
    assert "Commands:" in shown.stderr


def test_reader_that_leaves_early_is_no_complaint(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        shown = subprocess.run(
            [sys.executable, "-m", "edgeagent", "config", "show"],
            stdout=closed,
            stderr=subprocess.PIPE,
            env={**os.environ, "HOME": str(tmp_path)},
            check=False,
        )
    assert (shown.returncode, shown.stderr) == (1, b"")


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


FAILING = {
    "known": raising(PeerLostError("peer garage fell silent;\n ask again")),
    "missing_file": raising(FileNotFoundError(2, "No such file or directory", "/models/x.gguf")),
    "bug": raising(ZeroDivisionError("division by zero")),
    "interrupt": raising(KeyboardInterrupt()),
}


@pytest.mark.parametrize(
    ("name", "status", "stderr"),
    [
        ("known", 1, "error: peer garage fell silent; ask again"),
        ("missing_file", 1, "error: /models/x.gguf: No such file or directory; check the file or address"),
        ("bug", 1, "error: unexpected ZeroDivisionError: division by zero; report it with what EDGEAGENT_TRACEBACK=1"),
        ("interrupt", 130, ""),
    ],
)
def test_failure_inside_a_command_is_one_line(
    name: str, status: int, stderr: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "failing", FAILING[name], raising=False)
    monkeypatch.setitem(COMMANDS, "fail", LazyCommand(f"{__name__}:failing", ""))
    assert run(["fail"]) == status
    lines = capsys.readouterr().err.strip("\n").splitlines()  # click moves to a new line after a ^C
    assert len(lines) == (1 if stderr else 0)
    assert "".join(lines).startswith(stderr)


def test_bug_shows_its_traceback_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "failing", FAILING["bug"], raising=False)
    monkeypatch.setitem(COMMANDS, "fail", LazyCommand(f"{__name__}:failing", ""))
    monkeypatch.setenv("EDGEAGENT_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run(["fail"])


def test_error_inside_nested_task_groups_arrives_as_itself() -> None:
    async def fail() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [PeerLostError("gone; wait")])])

    with pytest.raises(PeerLostError, match="gone"):
        run_async(fail())


def test_group_that_also_holds_a_bug_is_not_reduced_to_its_known_error() -> None:
    async def fail() -> None:
        raise ExceptionGroup("both", [EdgeAgentError("known"), ZeroDivisionError()])

    with pytest.raises(ExceptionGroup):
        run_async(fail())

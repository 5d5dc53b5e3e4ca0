"""The house rules that no single module can show: who imports whom, what start-up costs, unique error codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeagent.core.errors import EdgeAgentError

ROOT = Path(__file__).parent.parent
HEAVY = frozenset(
    {
        "ai_edge_litert",
        "aiohttp",
        "apsw",
        "cryptography",
        "gguf",
        "llama_cpp",
        "mcp",
        "numpy",
        "onnxruntime",
        "rich",
        "tokenizers",
    }
)
MAX_HELP_CPU_S = 0.4
"""The one time that a test asserts: CPU time of `--help`, the best of three."""


def test_imports_keep_to_the_contracts() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    checked = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout  # in a process of its own: it disables every logger there is


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["config", "show"]])
def test_light_command_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert imported_by(arguments, tmp_path) & HEAVY == frozenset()


def test_version_imports_neither_click_nor_pydantic(tmp_path: Path) -> None:
    assert imported_by(["--version"], tmp_path) & {"click", "pydantic", "asyncio"} == frozenset()


def test_daemon_loads_cryptography_only_for_a_broker(tmp_path: Path) -> None:
    program = "import sys, edgeagent.service; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=environment(tmp_path), check=False).returncode == 0


def test_help_costs_little_cpu_time(tmp_path: Path) -> None:
    assert min(cpu_seconds(["--help"], tmp_path) for _ in range(3)) < MAX_HELP_CPU_S


def test_every_error_has_a_code_of_its_own_and_an_http_error_status() -> None:
    errors: list[type[EdgeAgentError]] = [EdgeAgentError, *descendants(EdgeAgentError)]
    codes = [error.code for error in errors]
    assert len(codes) == len(set(codes)), sorted(codes)
    assert all(400 <= error.status < 600 for error in errors)


def descendants(error: type[EdgeAgentError]) -> list[type[EdgeAgentError]]:
    public = [child for child in error.__subclasses__() if child.__module__ == EdgeAgentError.__module__]
    return [found for child in public for found in (child, *descendants(child))]


def imported_by(arguments: list[str], home: Path) -> frozenset[str]:
    """Top-level packages that one run of the command imported, as Python itself reports them."""
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "edgeagent", *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in shown.stderr.splitlines() if line.startswith("import time:")]
    return frozenset(line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines)


def cpu_seconds(arguments: list[str], home: Path) -> float:
    """CPU time of one run, user and system, as the kernel counted it."""
    command = [sys.executable, "-m", "edgeagent", *arguments]
    process = subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "PYTHONPATH": str(ROOT)}

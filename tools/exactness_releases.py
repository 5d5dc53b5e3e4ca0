"""Runs the exactness bench, and the engine's tests, with every release of llama-cpp-python that edgeagent knows.

    .venv/bin/python tools/exactness_releases.py [--folder FOLDER] [--tests] [RELEASE…]

Each release gets a virtual environment of its own below FOLDER, with everything else as pyproject.toml has it. It is
compiled there: five minutes on two quiet cores, once, for pip keeps the wheel. The bench then takes some minutes more.
It prints the rows of the table in docs/exactness.md, and leaves the bench's documents in FOLDER.

To know another release, put it into edgeagent/execution/releases.py first, and take it out again if this fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from edgeagent.execution.releases import PINNED, RELEASES

ROOT = Path(__file__).parent.parent
PACKAGE = "llama-cpp-python"
TESTS = (
    *(f"tests/execution/{name}" for name in ("llama", "test_releases.py", "test_stages.py", "test_meeting.py")),
    *(f"tests/execution/{name}" for name in ("test_keeping.py", "test_placement.py", "test_sampling.py")),
)
COLUMNS = ("release", "build", "caches", "resumed", "stages", "f16 wire", "int8 wire")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("releases", nargs="*", default=list(RELEASES), metavar="RELEASE")
    parser.add_argument("--folder", type=Path, default=ROOT / ".state/releases")
    parser.add_argument("--tests", action="store_true", help="the engine's tests, too")
    options = parser.parse_args()
    rows, num_failed = list[str](), 0
    for release in options.releases:
        python = environment(options.folder, release)
        if options.tests:
            num_failed += run_tests(python, options.folder, release) != 0
        document = run_bench(python, options.folder, release)
        num_failed += not is_exact(document["figures"])
        rows.append(row(release, document))
    print("\n".join((row_of(COLUMNS), row_of(["---"] * len(COLUMNS)), *rows)))
    return 1 if num_failed else 0


def requirements(release: str) -> list[str]:
    """What the program and its tests need, with this release instead of the pinned one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted: list[str] = project["dependencies"] + project["optional-dependencies"]["dev"]
    pinned, other = f"{PACKAGE}=={PINNED}", f"{PACKAGE}=={release}"
    assert pinned in wanted
    return [other if each == pinned else each for each in wanted]


def environment(folder: Path, release: str) -> Path:
    """The interpreter of a virtual environment with this release."""
    home = folder / f"venv-{release}"
    python = home / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-binary", PACKAGE, *requirements(release)]
    subprocess.run(install, check=True)
    return python


def run_tests(python: Path, folder: Path, release: str) -> int:
    """The exit status."""
    command = [str(python), "-m", "pytest", "-q", *TESTS]
    return subprocess.run(command, cwd=ROOT, env=_variables(folder, release), check=False).returncode


def run_bench(python: Path, folder: Path, release: str) -> dict[str, Any]:
    """Its document, which is left in the folder."""
    command = [str(python), "tools/bench/exactness.py", "--json", "--release"]
    done = subprocess.run(
        command, cwd=ROOT, env=_variables(folder, release), check=True, stdout=subprocess.PIPE, text=True
    )
    (folder / f"exactness-{release}.json").write_text(done.stdout)
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _variables(folder: Path, release: str) -> dict[str, str]:
    """A state of its own, since what is measured belongs to a build; the models are the same."""
    state, models = folder / f"state-{release}", folder / "models"
    for each in (state, models):
        each.mkdir(parents=True, exist_ok=True)
    if not (state / "models").exists():
        (state / "models").symlink_to(models.resolve())
    return os.environ | {"PYTHONPATH": str(ROOT), "EDGEAGENT_STATE": str(state)}


def is_exact(figures: dict[str, Any]) -> bool:
    """Whether nothing differs that must not, and the lossy wires are within their bounds."""
    exact = [name for name in figures if name.endswith(("_max_abs_logit", "_mismatches"))]
    return (
        bool(exact)
        and not any(figures[name] for name in exact)
        and figures["f16_mean_kl"] <= 0.004
        and figures["int8_mean_kl"] <= 0.006
        and figures["int8_top1"] >= 0.94
    )


def row(release: str, document: dict[str, Any]) -> str:
    figures, conditions = document["figures"], document["conditions"]
    types, compared = conditions["by_cache_type"].values(), conditions["split_compared"]
    caches, resumed = (sum(each[name] for each in types) for name in ("caches", "resumed"))
    return row_of(
        (
            release,
            f"`{conditions['engine'].partition('+')[2]}`",
            f"{figures['kv_max_abs_logit']:g}, {figures['kv_token_mismatches']} of {caches}",
            f"{figures['resume_token_mismatches']} of {resumed}",
            f"{figures['split_max_abs_logit']:g}, {figures['split_token_mismatches']} of {compared}",
            f"{figures['f16_mean_kl']:.4f}",
            f"{figures['int8_mean_kl']:.4f}, {figures['int8_top1']:.1%}",
        )
    )


def row_of(cells: "tuple[str, ...] | list[str]") -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())

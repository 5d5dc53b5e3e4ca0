"""Fails when a source file grew into a heap: over 500 lines, or named after no responsibility.

Usage: `check_sizes.py [ROOT]`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("edgeagent", "tests", "tools")
SUFFIXES = frozenset({".py", ".sh", ".js", ".css", ".html"})
WARN_LINES = 300
MAX_LINES = 500
HEAP_NAMES = frozenset({"utils.py", "helpers.py", "common.py"})


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    files = [(path, path.read_text(encoding="utf-8").count("\n")) for path in sources(root)]
    errors = [error for path, num_lines in files for error in objections(path.relative_to(root), num_lines)]
    for path, num_lines in files:
        if WARN_LINES <= num_lines <= MAX_LINES:
            print(f"warning: {path.relative_to(root)} has {num_lines} lines; look for a second responsibility")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def sources(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


def objections(path: Path, num_lines: int) -> Iterator[str]:
    if num_lines > MAX_LINES:
        yield f"{path} has {num_lines} lines, more than {MAX_LINES}; split it by responsibility"
    if path.name in HEAP_NAMES:
        yield f"{path} is named after no responsibility; name it after what it does"


if __name__ == "__main__":
    sys.exit(main())

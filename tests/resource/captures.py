"""A machine's files in one text: unpacks `sysroots/<board>.txt` into a folder that the readers take for `/`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "sysroots"
SPAN = re.compile(r"\{(\d+)\.\.(\d+)\}")
REPEAT = re.compile(r"(.+) \* (\d+)\.\.(\d+)")

Section = tuple[str, str]
"""Path, content."""


def captured_ids() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.txt"))


def unpack(board_id: str, root: Path) -> Path:
    """Write the board's files below `root`. The notation is in `sysroots/README.md`."""
    for name, text in files_of(board_id).items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.replace("\\0\n", "\0").replace("\\0", "\0").encode())
    return root


def files_of(board_id: str) -> dict[str, str]:
    """Path to content, after those of the text that it is `@like`."""
    lines = (FOLDER / f"{board_id}.txt").read_text(encoding="utf-8").splitlines()
    base = next((line.split()[1] for line in lines if line.startswith("@like ")), None)
    files: dict[str, str] = {}
    for section in _sections(line for line in lines if not line.startswith(("#", "@"))):
        for path, text in _expanded(*section):
            files[path] = f"{files[path]}\n{text}" if path in files else text
    return {**(files_of(base) if base else {}), **files}


def _sections(lines: Iterable[str]) -> list[Section]:
    """Headers, each with what is beside it or indented below it."""
    found: list[Section] = []
    for line in lines:
        if line.startswith(" "):
            path, text = found.pop()
            found.append((path, f"{text}{line.strip(' ')}\n"))
        elif ": " in line:
            path, _, text = line.partition(": ")
            found.append((path, f"{text}\n"))
        else:
            found.append((line.removesuffix(":"), ""))
    return found


def _expanded(path: str, text: str) -> Iterator[Section]:
    """Every file, or part of a file, that a section stands for."""
    if repeat := REPEAT.fullmatch(path):
        numbers = range(int(repeat[2]), int(repeat[3]) + 1)
        yield repeat[1], "\n".join(text.replace("{n}", str(number)) for number in numbers)
    elif span := SPAN.search(path):
        for number in range(int(span[1]), int(span[2]) + 1):
            yield from _expanded(path.replace(span[0], str(number), 1), text)
    else:
        yield path, text

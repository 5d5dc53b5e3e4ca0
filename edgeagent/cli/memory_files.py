"""The files of `edgeagent memory add --file`, `export` and `import`: bounded, replaced as wholes, read line by line."""

import contextlib
import io
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import click

from edgeagent.agent.memory import portable
from edgeagent.core.errors import RequestError
from edgeagent.core.memory import MemoryItem

MAX_PIPED_BYTES = 256 * 2**20
"""Of an export through a pipe, which is read once and held in memory. Of a file any length is read."""
MAX_LINE_BYTES = 2 * 2**20
"""Of an export. A text of 64 KiB takes six times as much where every character is escaped."""
STANDARD = Path("-")


def read_bytes(file: Path, max_bytes: int) -> bytes:
    """The whole of a file, or of standard input. Raises RequestError, also when there is more."""
    try:
        with click.open_file(str(file), "rb") as source:
            content: bytes = source.read(max_bytes + 1)  # a device or a pipe may never end
    except OSError as error:
        raise RequestError(f"cannot read {file} ({error.strerror}); name a readable file") from None
    if len(content) > max_bytes:
        raise RequestError(f"{file} is over {max_bytes} bytes; split it")
    return content


async def write_export(items: AsyncIterator[MemoryItem], file: Path) -> int:
    """How many. Raises RequestError when the file cannot be written; what was there before then stays."""
    count = -1  # the header is no memory
    try:
        with replaced(file) as out:
            async for text in portable.lines(items):
                out.write(text + "\n")
                count += 1
    except OSError as error:
        raise RequestError(f"cannot write {file} ({error.strerror}); choose another file") from None
    return count


@contextlib.contextmanager
def replaced(file: Path) -> Iterator[IO[str]]:
    """Text that takes the file's place when it is whole and on disk; before that, and if anything fails, nothing does.

    The file is its owner's alone. Standard output, devices and pipes are written to as they are.
    """
    if file == STANDARD or (file.exists() and not file.is_file()):
        with click.open_file(str(file), "w", encoding="utf-8") as out:
            yield out
        return
    partial = file.with_name(f"{file.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
        _sync(file.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class Export:
    """The memories of an export, which can be gone through several times. Raises RequestError that names the line."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content = None if file.is_file() else read_bytes(file, MAX_PIPED_BYTES)

    def __iter__(self) -> Iterator[MemoryItem]:
        try:
            with self._file.open("rb") if self._content is None else io.BytesIO(self._content) as source:
                yield from portable.parse(self._lines(source), str(self._file))
        except OSError as error:
            raise RequestError(f"cannot read {self._file} ({error.strerror}); name a readable file") from None

    def _lines(self, source: IO[bytes]) -> Iterator[str]:
        while line := source.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise RequestError(f"{self._file} has a line of over {MAX_LINE_BYTES} bytes; it is no export")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                raise RequestError(f"{self._file} is not UTF-8 text; convert it first") from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

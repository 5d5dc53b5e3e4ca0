"""A copy of the whole memory file, made while it is in use."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import RequestError

if TYPE_CHECKING:
    import apsw


def back_up(db: "apsw.Connection", file: Path) -> int:
    """Bytes of the copy, which is on disk then, private, and holds nothing of what was forgotten.

    It gets its name when it is whole: one that was broken off, by a power cut too, stays `NAME.partial`, and the next
    one replaces that. Raises RequestError when the file is there already or cannot be made, and apsw.Error.
    """
    partial = file.with_name(f"{file.name}.partial")
    if file.exists():
        raise RequestError(f"{file} is there already; choose a new name")
    try:
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise RequestError(f"cannot write {file} ({error.strerror}); choose another file") from None
    try:
        db.execute("VACUUM INTO ?", (str(partial),))
        _sync(partial)
        partial.rename(file)
        _sync(file.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return file.stat().st_size


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

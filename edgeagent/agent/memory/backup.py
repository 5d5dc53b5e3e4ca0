"""A copy of the whole memory file, made while it is in use."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import RequestError

if TYPE_CHECKING:
    import apsw


def back_up(db: "apsw.Connection", file: Path) -> int:
    """Bytes of the copy, which is on disk then, private, and holds nothing of what was forgotten.

    Raises RequestError when the file is there already or cannot be made, and apsw.Error; what was begun is removed.
    """
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        raise RequestError(f"{file} is there already; choose a new name") from None
    except OSError as error:
        raise RequestError(f"cannot write {file} ({error.strerror}); choose another file") from None
    try:
        db.execute("VACUUM INTO ?", (str(file),))
        for place in (file, file.parent):
            _sync(place)
    except BaseException:
        file.unlink()
        raise
    return file.stat().st_size


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

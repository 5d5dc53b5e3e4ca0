"""Who may change a model's files, and which files are in use: kernel locks, which end with their process."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from edgeagent.core.errors import ModelFileError
from edgeagent.resource.file_lock import lock_alone

LOCK_POLL_S = 0.2


@asynccontextmanager
async def alone(folder: Path) -> AsyncIterator[None]:
    """Alone among all processes in changing files around `folder`, which is made, and removed when it is empty.

    Raises ModelFileError when it cannot be written to.
    """
    while (descriptor := _try_alone(folder)) is None:  # noqa: ASYNC110  (the event would come from another process)
        await asyncio.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        _leave(folder, descriptor)


@contextmanager
def try_alone(folder: Path) -> Iterator[bool]:
    """The same without waiting: whether it is so."""
    descriptor = _try_alone(folder)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _leave(folder, descriptor)


def _try_alone(folder: Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # whoever was here last has just removed the folder
        return None
    except OSError as error:
        raise ModelFileError(f"cannot write to {folder} ({error.strerror}); set models.dir") from None
    # Its last owner removes the lock file: a lock on a file without a name excludes nobody.
    if lock_alone(descriptor) and os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def _leave(folder: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):  # not empty: a partial file waits for its next try
        (folder / "lock").unlink()
        folder.rmdir()
        folder.parent.rmdir()
    os.close(descriptor)


class Hold:
    """A verified file is in use until `close`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path) -> "Hold":
        """Raises ModelFileError when the file is gone."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be opened ({error.strerror}); pull the model again") from None
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits no longer than a removal takes
        if os.fstat(descriptor).st_nlink:
            return cls(descriptor)
        os.close(descriptor)
        raise ModelFileError(f"{path} was removed by another process; pull the model again")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether no process holds the file; while inside, none can begin to."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False  # gone, or not ours to remove
        return
    try:
        yield lock_alone(descriptor)
    finally:
        os.close(descriptor)

"""Files with keys: written whole or not at all, mode 0600, refused when others could read or change them."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from edgeagent.core.errors import TrustError

MAX_FILE_BYTES = 16 * 2**20

_Model = TypeVar("_Model", bound=BaseModel)


def read_private(path: Path, model: type[_Model]) -> _Model | None:
    """The document in a private file; None when there is none. Raises TrustError."""
    try:
        with open(path, "rb", opener=_open_here) as file:
            _check_private(path, os.fstat(file.fileno()))
            return parse_file(path, file.read(MAX_FILE_BYTES + 1), model)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrustError(f"{path} cannot be read ({error.strerror}); mend it or remove it") from None


def read_carried(path: Path, model: type[_Model]) -> _Model:
    """The document in a file that somebody brought; its permissions are theirs. Raises TrustError."""
    try:
        with path.open("rb") as file:
            return parse_file(path, file.read(MAX_FILE_BYTES + 1), model)
    except OSError as error:
        raise TrustError(f"{path} cannot be read ({error.strerror}); name a readable file") from None


def parse_file(path: Path, data: bytes, model: type[_Model]) -> _Model:
    try:
        if len(data) > MAX_FILE_BYTES:
            raise TrustError(f"{path} is over {MAX_FILE_BYTES} bytes; it is no file of this program")
        return model.model_validate_json(data)
    except ValidationError:  # what it says could hold a key, so none of it is shown
        raise TrustError(f"{path} is damaged or of another version; restore it from a copy, or remove it") from None


def write_private(path: Path, document: BaseModel) -> None:
    """Replace the file, durably, or leave it as it was. Raises OSError."""
    with _draft(path, document) as draft:
        draft.replace(path)


def create_private(path: Path, document: BaseModel) -> bool:
    """Write the file unless it exists; whether it was written. Of two processes at once, one writes."""
    with _draft(path, document) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in this folder, which is made if need be, while inside."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _draft(path: Path, document: BaseModel) -> Iterator[Path]:
    """The document in a new file beside `path`, which is gone afterwards unless it was renamed."""
    data = document.model_dump_json(indent=2).encode() + b"\n"
    if len(data) > MAX_FILE_BYTES:
        raise TrustError(f"{path} would be over {MAX_FILE_BYTES} bytes, more than is read again; make a new fleet")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield draft
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_here(path: str, flags: int) -> int:
    """Of this very name: a link could lead to what others write, and a pipe would never end."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _check_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise TrustError(f"{path} is no regular file; remove it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise TrustError(f"{path} can be read or changed by others; chmod 600 it, and replace the key if others saw it")
    if os.geteuid() not in (0, found.st_uid):
        raise TrustError(f"{path} belongs to another user; run this as its owner")

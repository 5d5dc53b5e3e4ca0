"""One file of the store: its hash, its structure, and the sidecar that remembers that both were checked."""

import contextlib
import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeagent.core.cards import ModelCard, ModelFile, Sha256
from edgeagent.core.errors import ModelFileError
from edgeagent.model.gguf_header import GgufHeader, read_header


class Checked(BaseModel):
    """The sidecar `<file>.json`: this content was verified when the file had this size and modification time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    bytes: int
    mtime_ns: int


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def quarantine(path: Path) -> Path:
    return path.with_name(path.name + ".bad")


def recall(path: Path) -> Checked | None:
    """What was verified of `path`; None when there is no readable record."""
    try:
        return Checked.model_validate_json(sidecar(path).read_bytes())
    except (OSError, ValidationError):
        return None


def record(path: Path, checked: Checked) -> None:
    temporary = sidecar(path).with_suffix(".tmp")
    temporary.write_text(checked.model_dump_json())
    temporary.replace(sidecar(path))


def is_current(path: Path, checked: Checked) -> bool:
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) == (checked.bytes, checked.mtime_ns)


def verify(path: Path, card: ModelCard, file: ModelFile, sha256: str | None) -> Checked:
    """The file's facts, once size, structure and hash (`sha256`, when known) fit the card. Raises ModelFileError."""
    status = path.stat()  # before reading: a change meanwhile then shows at the next look
    if file.bytes is not None and status.st_size != file.bytes:
        raise ModelFileError(f"{path} has {status.st_size} bytes, its card says {file.bytes}; fetch it again")
    if file.file.endswith(".gguf"):
        with path.open("rb") as content:
            _check_shape(read_header(content, str(path)), card, path)
    found = _hash(path)
    if sha256 is not None and found != sha256:
        raise ModelFileError(f"{path} has sha256 {found}, expected {sha256}; fetch it again")
    return Checked(sha256=found, bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def set_aside(path: Path) -> Path:
    """Move a bad file to `<file>.bad`, where nothing looks for it; it may hold something of worth."""
    aside = quarantine(path)
    with contextlib.suppress(OSError):  # another process was faster, or the folder is read-only
        path.replace(aside)
        sidecar(path).unlink(missing_ok=True)
    return aside


def move_into_place(source: Path, target: Path) -> None:
    """Rename, durable: after a power cut the target is the whole file or not there."""
    for path in (source, source.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
        sidecar(target).unlink()
    source.replace(target)


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _check_shape(header: GgufHeader, card: ModelCard, path: Path) -> None:
    shape = card.architecture
    if shape is None:
        raise ModelFileError(f"{path} is a GGUF file, but its card describes no decoder; remove it")
    expected = {
        "architecture": (header.architecture, shape.family),
        "layers": (header.layers, shape.layers),
        "width": (header.width, shape.width),
        "heads": (header.heads, shape.heads),
        "kv_heads": (header.kv_heads, shape.kv_heads),
        "head_dim": (header.head_dim, shape.head_dim),
        "vocab": (header.vocab, shape.vocab),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise ModelFileError(f"{path} is another model: {key} is {found}, its card says {wanted}; remove it")

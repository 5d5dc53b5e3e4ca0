"""One file of the store: its hash, its structure, and the sidecar that remembers that both were checked."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from edgeagent.core.cards import AdapterFile, Architecture, ModelCard, ModelFile, Sha256, Variant
from edgeagent.core.errors import ModelFileError
from edgeagent.model.adapter_header import check_adapter
from edgeagent.model.gguf_cursor import HeaderIncompleteError
from edgeagent.model.gguf_header import GgufHeader, read_header, read_tables

MIN_HEADER_BYTES = 24
LOOK_STEP_BYTES = 256 * 1024
NO_SIZE = 2**62


class Origin(BaseModel):
    """Where on a model hub a file is, and the commit that it was asked for at (empty: the hub did not say)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str
    revision: str
    path: str
    commit: str

    def is_place_of(self, other: "Origin") -> bool:
        return (self.repo, self.revision, self.path) == (other.repo, other.revision, other.path)


class Checked(BaseModel):
    """The sidecar `<file>.json`: this content was verified when the file had this size and modification time.

    It outlives its file where nothing else pins the content. Its own modification time is that of the last use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    bytes: int
    mtime_ns: int
    origin: Origin | None = None


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def validator(partial: Path) -> Path:
    """Beside a partial file: what tells whether the server still has the same."""
    return partial.with_name(partial.name + ".etag")


def quarantine(path: Path) -> Path:
    return path.with_name(path.name + ".bad")


def recall(path: Path) -> Checked | None:
    """What was verified of `path`; None when there is no readable record."""
    try:
        return Checked.model_validate_json(sidecar(path).read_bytes())
    except (OSError, ValidationError):
        return None


def record(path: Path, checked: Checked) -> None:
    temporary = unfinished_sidecar(path)
    with temporary.open("w") as file:
        file.write(checked.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(sidecar(path))


def unfinished_sidecar(path: Path) -> Path:
    return sidecar(path).with_suffix(".tmp")


def used_at(path: Path) -> float:
    """When the verified file was last used, in seconds of the epoch; 0 when it has no sidecar."""
    try:
        return sidecar(path).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def touch(path: Path) -> None:
    """Record a use; a folder that cannot be written to does not know of uses."""
    with contextlib.suppress(OSError):
        os.utime(sidecar(path))


def is_current(path: Path, checked: Checked) -> bool:
    status = path.stat()
    return (status.st_size, status.st_mtime_ns) == (checked.bytes, checked.mtime_ns)


def verify(path: Path, card: ModelCard, file: ModelFile, sha256: str | None, origin: Origin | None = None) -> Checked:
    """The file's facts, once size, structure and hash (`sha256`, when known) fit the card. Raises ModelFileError."""
    status = path.stat()  # before reading: a change meanwhile then shows at the next look
    if file.bytes is not None and status.st_size != file.bytes:
        raise ModelFileError(f"{path} has {status.st_size} bytes, its card says {file.bytes}; fetch it again")
    if file.file.endswith(".gguf"):
        with path.open("rb") as content:
            check_header(content, card, file, path)
    found = _hash(path)
    if sha256 is not None and found != sha256:
        raise ModelFileError(f"{path} has sha256 {found}, expected {sha256}; fetch it again")
    return Checked(sha256=found, bytes=status.st_size, mtime_ns=status.st_mtime_ns, origin=origin)


def set_aside(path: Path) -> Path:
    """Move a bad file to `<file>.bad`, where nothing looks for it; it may hold something of worth.

    What was recorded of it stays, and still pins the content.
    """
    aside = quarantine(path)
    with contextlib.suppress(OSError):  # another process was faster, or the folder is read-only
        path.replace(aside)
    return aside


def move_into_place(source: Path, target: Path, checked: Checked) -> None:
    """Rename the verified `source`, durable: after a power cut the target is the whole file or not there.

    The record comes first, as a file is looked for by its own name: what is found has been verified and pinned.
    """
    record(target, checked)  # a rename keeps the modification time
    for path in (source, source.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    source.replace(target)


class HeaderWatch:
    """Looks into a growing GGUF file until its header is whole, so that a wrong one is refused within megabytes."""

    def __init__(self, path: Path, card: ModelCard, file: ModelFile) -> None:
        self._path, self._card, self._file = path, card, file
        self._next_look: int | None = MIN_HEADER_BYTES if file.file.endswith(".gguf") else None

    def __call__(self, done: int, total: int | None) -> None:
        """`done` bytes of `total` (None: unknown) are there. Raises ModelFileError."""
        if self._next_look is None or done < self._next_look:
            return
        try:
            with self._path.open("rb") as content:
                size = NO_SIZE if total is None else total
                check_header(content, self._card, self._file, Path(self._file.file), size)
        except HeaderIncompleteError:
            self._next_look = done + max(LOOK_STEP_BYTES, done // 2)
            return
        self._next_look = None


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def check_header(
    content: BinaryIO, card: ModelCard, file: ModelFile, path: Path, total_bytes: int | None = None
) -> None:
    """Raises ModelFileError, naming `path`, unless the GGUF file is what the card says, and as `read_header`."""
    if isinstance(file, AdapterFile):
        check_adapter(read_tables(content, str(path), total_bytes), card, path)
    else:
        check_shape(read_header(content, str(path), total_bytes), card, file, path)


def check_shape(header: GgufHeader, card: ModelCard, file: ModelFile, path: Path) -> None:
    """Raises ModelFileError, naming `path`, when the header is not of the decoder that the card describes."""
    if card.architecture is None:
        raise ModelFileError(f"{path} is a GGUF file, but its card describes no decoder; remove it")
    shape = card.shape(file) if isinstance(file, Variant) else card.architecture
    for key, (found, wanted) in _compared(header, shape).items():
        if found != wanted:
            raise ModelFileError(f"{path} is another model: {key} is {found}, its card says {wanted}; remove it")


def _compared(header: GgufHeader, shape: Architecture) -> dict[str, tuple[object, object]]:
    """What the header has and the card wants, by name; without what only one of them states."""
    experts = shape.experts
    required: dict[str, tuple[object, object]] = {
        "architecture": (header.architecture, shape.family),
        "layers": (header.layers, shape.layers),
        "width": (header.width, shape.width),
        "heads": (header.heads, shape.heads),
        "kv_heads": (header.kv_heads, shape.kv_heads),
        "head_dim": (header.head_dim, shape.head_dim),
        "vocab": (header.vocab, shape.vocab),
        "experts.count": (header.num_experts, experts.count if experts else None),
    }
    optional = {
        # With experts, files and cards disagree on whether this is the width of one of them.
        "ffn": (header.ffn, None if experts else shape.ffn),
        "sliding_window": (header.sliding_window, shape.sliding_window),
        "experts.used": (header.num_experts_used, experts.used if experts else None),
        "experts.ffn": (header.expert_ffn, experts.ffn if experts else None),
    }
    return required | {key: pair for key, pair in optional.items() if None not in pair}

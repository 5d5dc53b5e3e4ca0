"""Our reader of GGUF headers: every length is capped before it is believed, and the whole header is checked.

Written from the format's description (ggml docs/gguf.md). It exists because readers that trust the file hang or
overflow on hostile ones; nothing is loaded by an engine before this has passed.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from edgeagent.model.gguf_cursor import ARRAY, BOOL, SCALARS, STRING, Cursor, Scalar
from edgeagent.model.gguf_types import TENSOR_TYPES, TensorType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 4096
MAX_TENSORS = 4096  # the largest models have about two thousand
MAX_KEY_BYTES = 1024
MAX_STRING_BYTES = 1 * 2**20  # chat templates are the longest strings in the wild: tens of kilobytes
MAX_NAME_BYTES = 63  # GGML_MAX_NAME is 64 with its terminator
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_ELEMENTS = 2**48  # far above any tensor, far below an overflow of ggml's int64
MAX_ALIGNMENT = 2**16
MAX_KEPT_ARRAY = 4096  # longer arrays (vocabularies) are stepped over, not kept
MAX_KEPT_NUMBERS = 65_536  # of all arrays together: what comes after is stepped over, which bounds memory

_UINT32, _UINT64 = 4, 10
_PLACES = {count: struct.Struct(f"<{count}QIQ") for count in range(1, MAX_DIMENSIONS + 1)}
"""A tensor's dimensions, type and offset, by its number of dimensions."""


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was checked but not kept."""

    count: int


Value = Scalar | tuple[int | float | bool, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor; `offset` counts from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself. Of a number that differs from layer to layer, it is the largest.

    None: the file does not say. A model without experts has no `num_experts`.
    """

    version: int
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_tokens: int
    ffn: int | None
    sliding_window: int | None
    num_experts: int | None
    num_experts_used: int | None
    expert_ffn: int | None
    file_type: int | None
    has_chat_template: bool
    alignment: int
    data_offset: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class GgufTables:
    """What any GGUF file has, whatever it is for."""

    version: int
    alignment: int
    data_offset: int
    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]


def read_header(file: BinaryIO, label: str, total_bytes: int | None = None) -> GgufHeader:
    """The checked header of the seekable `file`, called `label` in errors. Raises ModelFileError.

    Of a file that is still growing to `total_bytes`, it raises HeaderIncompleteError while only more bytes can tell.
    """
    cursor = Cursor(file, label, total_bytes)
    return _header(cursor, _read_tables(cursor))


def read_tables(file: BinaryIO, label: str, total_bytes: int | None = None) -> GgufTables:
    """As `read_header`, of a file that need not be a decoder."""
    return _read_tables(Cursor(file, label, total_bytes))


def _read_tables(cursor: Cursor) -> GgufTables:
    version, num_tensors, num_keys = _read_counts(cursor)
    metadata = _read_metadata(cursor, num_keys)
    alignment = _alignment(cursor, metadata)
    tensors = _read_tensors(cursor, num_tensors, alignment)
    data_offset = _padded(cursor.offset, alignment)
    _check_extent(cursor, tensors, data_offset)
    return GgufTables(version, alignment, data_offset, metadata, tensors)


def _read_counts(cursor: Cursor) -> tuple[int, int, int]:
    if cursor.take(4) != MAGIC:
        raise cursor.error("it does not begin with 'GGUF'")
    version = cursor.integer(_UINT32)
    if version not in VERSIONS:
        raise cursor.error(f"version {version} (or big-endian), where {VERSIONS[0]} and {VERSIONS[1]} are known")
    num_tensors, num_keys = cursor.integer(_UINT64), cursor.integer(_UINT64)
    if not 0 < num_tensors <= MAX_TENSORS:
        raise cursor.error(f"{num_tensors} tensors, where 1 to {MAX_TENSORS} are allowed")
    if num_keys > MAX_KEYS:
        raise cursor.error(f"{num_keys} metadata keys, where {MAX_KEYS} are allowed")
    return version, num_tensors, num_keys


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    room = MAX_KEPT_NUMBERS
    for _ in range(count):
        key = cursor.string(MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(f"metadata key '{key}' occurs twice")
        value = metadata[key] = _read_value(cursor, key, room)
        room -= len(value) if isinstance(value, tuple) else 0
    return metadata


def _read_value(cursor: Cursor, key: str, room: int) -> Value:
    value_type = cursor.integer(_UINT32)
    if value_type == STRING:
        return cursor.string(MAX_STRING_BYTES)
    if value_type == ARRAY:
        return _read_array(cursor, key, min(room, MAX_KEPT_ARRAY))
    if value_type not in SCALARS:
        raise cursor.error(f"metadata key '{key}' has the unknown type {value_type}")
    return cursor.scalar(value_type)


def _read_array(cursor: Cursor, key: str, max_kept: int) -> Value:
    item_type, count = cursor.integer(_UINT32), cursor.integer(_UINT64)
    if item_type == STRING:
        cursor.skip_strings(count)
        return SkippedArray(count)
    if item_type not in SCALARS:
        raise cursor.error(f"metadata key '{key}' is an array of the unsupported type {item_type}")
    if count > max_kept or item_type == BOOL:
        cursor.skip(count * SCALARS[item_type].size)
        return SkippedArray(count)
    return cursor.scalars(item_type, count)


def _alignment(cursor: Cursor, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", 32)
    if isinstance(value, int) and 8 <= value <= MAX_ALIGNMENT and value & (value - 1) == 0:
        return value
    raise cursor.error(f"alignment {value}, where a power of two from 8 to {MAX_ALIGNMENT} is needed")


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> tuple[TensorInfo, ...]:
    """The tensor table. Tensors must follow each other without gap or overlap, as ggml itself demands."""
    tensors: dict[str, TensorInfo] = {}
    expected = 0
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in tensors:
            raise cursor.error(f"tensor '{tensor.name}' occurs twice")
        if tensor.offset != expected:
            raise cursor.error(f"tensor '{tensor.name}' lies at {tensor.offset} instead of {expected}")
        tensors[tensor.name] = tensor
        expected = _padded(tensor.offset + tensor.num_bytes, alignment)
    return tuple(tensors.values())


def _read_tensor(cursor: Cursor) -> TensorInfo:
    name = cursor.string(MAX_NAME_BYTES)
    num_dimensions = cursor.integer(_UINT32)
    if not 0 < num_dimensions <= MAX_DIMENSIONS:
        raise cursor.error(f"tensor '{name}' has {num_dimensions} dimensions, where 1 to {MAX_DIMENSIONS} are allowed")
    place = _PLACES[num_dimensions]
    *shape, type_number, offset = place.unpack(cursor.take(place.size))
    if type_number not in TENSOR_TYPES:
        raise cursor.error(f"tensor '{name}' has the unknown type {type_number}")
    tensor_type = TENSOR_TYPES[type_number]
    return TensorInfo(name, tuple(shape), tensor_type, offset, _tensor_bytes(cursor, name, shape, tensor_type))


def _tensor_bytes(cursor: Cursor, name: str, shape: list[int], tensor_type: TensorType) -> int:
    elements = 1
    for size in shape:
        elements *= size
        if not 0 < elements <= MAX_ELEMENTS:
            raise cursor.error(f"tensor '{name}' has the impossible shape {shape}")
    if shape[0] % tensor_type.block_elements:
        raise cursor.error(f"tensor '{name}' has rows of {shape[0]}, no multiple of {tensor_type.block_elements}")
    return elements // tensor_type.block_elements * tensor_type.block_bytes


def _padded(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _check_extent(cursor: Cursor, tensors: tuple[TensorInfo, ...], data_offset: int) -> None:
    end = data_offset + tensors[-1].offset + tensors[-1].num_bytes
    if end > cursor.file_bytes:
        raise cursor.error(f"it is truncated: {cursor.file_bytes} bytes, where its tensors need {end}")


def _header(cursor: Cursor, tables: GgufTables) -> GgufHeader:
    metadata = tables.metadata
    facts = _Facts(cursor, metadata)
    heads, width = facts.count("attention.head_count"), facts.count("embedding_length")
    file_type = metadata.get("general.file_type")
    return GgufHeader(
        version=tables.version,
        architecture=facts.architecture,
        layers=facts.count("block_count"),
        width=width,
        heads=heads,
        kv_heads=facts.count("attention.head_count_kv", heads),
        head_dim=facts.count("attention.key_length", max(1, width // heads)),
        vocab=facts.vocab(),
        context_tokens=facts.count("context_length"),
        ffn=facts.optional("feed_forward_length"),
        sliding_window=facts.optional("attention.sliding_window"),
        num_experts=facts.optional("expert_count"),
        num_experts_used=facts.optional("expert_used_count"),
        expert_ffn=facts.optional("expert_feed_forward_length"),
        file_type=file_type if isinstance(file_type, int) else None,
        has_chat_template=isinstance(metadata.get("tokenizer.chat_template"), str),
        alignment=tables.alignment,
        data_offset=tables.data_offset,
        metadata=metadata,
        tensors=tables.tensors,
    )


class _Facts:
    """Picks the numbers a decoder must have out of the metadata."""

    def __init__(self, cursor: Cursor, metadata: dict[str, Value]) -> None:
        self._cursor = cursor
        self._metadata = metadata
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise cursor.error("it does not name its architecture")
        self.architecture = architecture

    def count(self, key: str, default: int | None = None) -> int:
        """A positive number that fits 32 bits; the largest of an array with one value a layer."""
        name = f"{self.architecture}.{key}"
        value: object = self._metadata.get(name, default)
        if isinstance(value, tuple) and value:
            value = max(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            return value
        raise self._cursor.error(f"metadata key '{name}' is missing or no positive number")

    def optional(self, key: str) -> int | None:
        """The number, or None where it is absent or 0 (in every layer)."""
        value = self._metadata.get(f"{self.architecture}.{key}", 0)
        largest = max(value, default=0) if isinstance(value, tuple) else value
        return None if largest == 0 else self.count(key)

    def vocab(self) -> int:
        tokens = self._metadata.get("tokenizer.ggml.tokens")
        return self.count("vocab_size", tokens.count if isinstance(tokens, SkippedArray) else None)

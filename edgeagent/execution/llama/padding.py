"""Loads the file of a head or a middle with one layer more, of zeros, which is never computed.

Behind a model's last layer llama.cpp computes only what it gives logits of, and these need every token of a chunk: it
would copy (meaningless) logits of all of them, 64 MiB for Gemma 3's vocabulary and 64 tokens. With a layer behind, none
are asked for. That layer comes in a second file of the same model (a split), which has a name no longer than it takes
to load it, and no blocks on a disk.
"""

import ctypes
import math
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeagent.core.stages import Padding
from edgeagent.execution.llama.library import llama

ALIGNMENT = 32
"""The format's own (ggml docs/gguf.md)."""
UINT16, STRING = 2, 8
TYPES = ((256, 19, 50), (32, 2, 18))
"""Values of a block, ggml's number of the type, bytes of a block: IQ1_S and Q4_0, the smallest that rows allow."""
F32, F32_BYTES = 0, 4
FIRST, SECOND = 0, 1


def load(path: str, padding: Padding, params: ctypes.Structure) -> object:
    """llama.cpp's model of `layers + 1`; null when it refuses the file."""
    lib, overrides = llama(), _overrides(padding)  # kept until the model is loaded
    params.kv_overrides = overrides
    with tempfile.TemporaryDirectory(prefix="edgeagent-") as folder:
        layer = Path(folder) / "layer.gguf"
        write(layer, padding)
        paths = (ctypes.c_char_p * 2)(path.encode(), str(layer).encode())
        handle: object = lib.llama_model_load_from_splits(paths, 2, params)
    return handle


def _overrides(padding: Padding) -> "ctypes.Array[ctypes.Structure]":
    """Metadata that says so; the last entry is the end."""
    lib = llama()
    told = {
        f"{padding.architecture}.block_count": padding.layers + 1,
        "split.no": FIRST,
        "split.count": 2,
        "split.tensors.count": padding.num_tensors + len(padding.tensors),
    }
    entries = (lib.llama_model_kv_override * (len(told) + 1))()
    for entry, (key, value) in zip(entries, told.items(), strict=False):
        entry.tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
        entry.key = key.encode()
        entry.value.val_i64 = value
    return entries  # type: ignore[no-any-return]


def write(path: Path, padding: Padding) -> None:
    """The layer's file: names and shapes of its tensors; their bytes are a hole in the file, which reads as zeros."""
    keys = [
        _text("general.architecture") + struct.pack("<I", STRING) + _text(padding.architecture),
        *(_text(key) + struct.pack("<IH", UINT16, value) for key, value in (("split.no", SECOND), ("split.count", 2))),
    ]
    tensors, size = [], 0
    for name, shape, kind, num_bytes in _layout(padding):
        place = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, size)
        tensors.append(_text(name) + place)
        size += _padded(num_bytes)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])
    with path.open("wb") as file:
        file.write(head)
        os.ftruncate(file.fileno(), _padded(len(head)) + size)


def _layout(padding: Padding) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Of each tensor: name, shape, type and bytes."""
    for name, shape in padding.tensors:
        elements = math.prod(shape)
        found = next((t for t in TYPES if len(shape) > 1 and shape[0] % t[0] == 0), (1, F32, F32_BYTES))
        block_elements, kind, block_bytes = found
        yield f"blk.{padding.layers}.{name}", shape, kind, elements // block_elements * block_bytes


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT

"""What a LoRA adapter's file must be before an engine gets it: llama.cpp aborts on some, of others it ignores parts."""

import re
from pathlib import Path

from edgeagent.core.cards import Architecture, ModelCard
from edgeagent.core.errors import ModelFileError
from edgeagent.model.gguf_header import GgufTables, TensorInfo

PART = re.compile(r"(.+)\.lora_([ab])")
MATRIX = re.compile(r"blk\.(\d+)\.[a-z0-9_]+\.weight|output\.weight")
"""Matrices that may be adapted. Not the embedding table: where it is the output head, too, llama.cpp aborts."""
MATRIX_TYPES = {"F32", "F16", "BF16", "Q8_0"}


def check_adapter(tables: GgufTables, card: ModelCard, path: Path) -> None:
    """Raises ModelFileError, naming `path`, unless it is a LoRA adapter for the decoder of this card.

    That each matrix exists in a variant's file and has the right size is for the engine to see, which says so.
    """
    if card.architecture is None:
        raise ModelFileError(f"{path} is an adapter, but its card describes no decoder; remove it")
    if fault := _fault(tables, card.architecture):
        raise ModelFileError(f"{path} is no adapter for {card.id}: {fault}; remove it")


def _fault(tables: GgufTables, shape: Architecture) -> str | None:
    wanted = {
        "general.type": "adapter",
        "general.architecture": shape.family,
        "adapter.type": "lora",
    }
    for key, value in wanted.items():
        if tables.metadata.get(key) != value:
            return f"{key} is {tables.metadata.get(key)!r}, not '{value}'"
    if not isinstance(tables.metadata.get("adapter.lora.alpha"), float):
        return "adapter.lora.alpha is no floating-point number"
    if "adapter.alora.invocation_tokens" in tables.metadata:
        return "it is to begin at certain tokens (aLoRA), which this version cannot"
    return _tensor_fault(tables.tensors, shape)


def _tensor_fault(tensors: tuple[TensorInfo, ...], shape: Architecture) -> str | None:
    parts: dict[str, dict[str, TensorInfo]] = {}
    for tensor in tensors:
        name = PART.fullmatch(tensor.name)
        matrix = MATRIX.fullmatch(name[1]) if name else None
        if name is None or matrix is None or int(matrix[1] or 0) >= shape.layers:
            return f"tensor {tensor.name} adapts nothing that can be adapted"
        if len(tensor.shape) != 2 or tensor.type.name not in MATRIX_TYPES:
            return f"tensor {tensor.name} is no matrix of {', '.join(sorted(MATRIX_TYPES))}"
        parts.setdefault(name[1], {})[name[2]] = tensor
    for matrix_name, pair in parts.items():
        if len(pair) != 2 or pair["a"].shape[1] != pair["b"].shape[0]:
            return f"{matrix_name} has no lora_a and lora_b of one rank"
    return None

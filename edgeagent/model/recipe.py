"""From a model's shape and a llama.cpp file type: what the file weighs and what it asks for a token. Pure.

This is how size, memory and speed of a variant are known before it is downloaded or made.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache

from edgeagent.core.cards import Architecture, ModelCard, Variant
from edgeagent.model.gguf_header import GgufHeader, TensorInfo
from edgeagent.model.layout import Role, Tensor, tensors
from edgeagent.model.mixes import TYPES, type_of
from edgeagent.resource.speed import Load

# A file's metadata is its vocabulary: for each token its text with an 8-byte length and a 4-byte type, then a 4-byte
# score (SentencePiece) or the merge rules as strings (BPE). Read from the files of SmolLM2 135M and Gemma 3 270M; for
# the others, what the published sizes of Llama 3.2 1B, Qwen3 1.7B and Phi-4-mini leave beside their tensors.
VOCABULARY_BYTES = {49_152: 1_785_664, 128_256: 7_831_680, 151_936: 5_952_064, 200_064: 8_251_360, 262_144: 6_525_120}
BYTES_PER_TOKEN = 40
"""Of a vocabulary that is not listed: about the mean of those that are."""

WINDOW_PATTERNS = {"gemma3": 6}
"""llama.cpp's default where the file does not say (src/models/gemma3.cpp)."""


def file_bytes(shape: Architecture, file_type: str, *, imatrix: bool = False) -> int:
    """Bytes of the whole file. Raises ValueError for a file type that is not known."""
    data = sum(_bytes(tensor, type_of(tensor, shape, file_type, imatrix=imatrix)) for tensor in tensors(shape))
    return data + metadata_bytes(shape)


def metadata_bytes(shape: Architecture) -> int:
    """Bytes before the tensors, nearly."""
    return VOCABULARY_BYTES.get(shape.vocab, BYTES_PER_TOKEN * shape.vocab)


def load_of(shape: Architecture, file_type: str, *, imatrix: bool = False) -> Load:
    """What one token costs: matrices by type, of experts the used ones. Vectors are part of a layer's overhead.

    Raises ValueError for a file type that is not known.
    """
    layers: Counter[str] = Counter()
    head: Counter[str] = Counter()
    for tensor in tensors(shape):
        kind = type_of(tensor, shape, file_type, imatrix=imatrix)
        if _is_head(tensor, shape):
            head[kind] += tensor.elements
        elif tensor.layer is not None and tensor.role is not Role.VECTOR:
            layers[kind] += _used(tensor, shape)
    window_layers = _window_layers(shape.layers, shape.window_pattern) if shape.sliding_window else 0
    width = shape.heads * shape.head_dim
    return Load(shape.layers, shape.width, dict(layers), dict(head), width, window_layers, shape.sliding_window or 0)


def output_share(card: ModelCard, variant: Variant) -> float:
    """The output head's part of the weights that one token of an answer passes through; 0 where nothing is known."""
    return _output_share(card.shape(variant), variant.file_type)


@cache
def _output_share(shape: Architecture, file_type: str) -> float:
    """Kept, as every request asks for it and it takes some milliseconds."""
    try:
        load = load_of(shape, file_type)
    except ValueError:
        return 0.0
    head, layers = sum(load.head.values()), sum(load.layers.values())
    return head / (head + layers)


def load_of_header(header: GgufHeader) -> Load:
    """The same, exact, from a file's own tensor table."""
    layers: Counter[str] = Counter()
    for tensor, elements in _matrices(header):
        layers[tensor.type.name] += elements
    window, pattern = _window(header)
    return Load(
        num_layers=header.layers,
        width=header.width,
        layers=dict(layers),
        head=_header_head(header),
        attention_width=header.heads * header.head_dim,
        window_layers=_window_layers(header.layers, pattern) if window else 0,
        window=window,
    )


def _bytes(tensor: Tensor, kind: str) -> int:
    stored = TYPES[kind]
    return tensor.elements // stored.block_elements * stored.block_bytes


def _is_head(tensor: Tensor, shape: Architecture) -> bool:
    return tensor.role is (Role.EMBEDDING if shape.tied_head else Role.HEAD)


def _used(tensor: Tensor, shape: Architecture) -> int:
    if tensor.experts == 1 or shape.experts is None:
        return tensor.elements
    return tensor.columns * tensor.rows * shape.experts.used


def _window_layers(layers: int, pattern: int | None) -> int:
    return layers - layers // pattern if pattern else layers


def _matrices(header: GgufHeader) -> Iterator[tuple[TensorInfo, int]]:
    """The layers' matrices and how many of their weights serve a token."""
    count, used = (_number(header, key) for key in ("expert_count", "expert_used_count"))
    for tensor in header.tensors:
        if not tensor.name.startswith("blk.") or len(tensor.shape) < 2:
            continue
        elements = _elements(tensor)
        yield tensor, elements * used // count if "_exps." in tensor.name and count else elements


def _header_head(header: GgufHeader) -> dict[str, int]:
    by_name = {tensor.name: tensor for tensor in header.tensors}
    head = by_name.get("output.weight") or by_name.get("token_embd.weight")
    return {head.type.name: _elements(head)} if head else {}


def _window(header: GgufHeader) -> tuple[int, int | None]:
    """Sliding window and its pattern, for families whose window llama.cpp applies; else 0."""
    default = WINDOW_PATTERNS.get(header.architecture)
    if default is None:
        return 0, None
    pattern = _number(header, "attention.sliding_window_pattern")
    return _number(header, "attention.sliding_window"), pattern or default


def _number(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(f"{header.architecture}.{key}", 0)
    return value if isinstance(value, int) else 0


def _elements(tensor: TensorInfo) -> int:
    product = 1
    for size in tensor.shape:
        product *= size
    return product

"""Writes small LoRA adapters for SmolLM2-135M: real files of random weights."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from edgeagent.core.generation import Adapter

LAYERS, WIDTH, FFN, KEYS = 30, 576, 1536, 192
SHAPES = {"attn_q": (WIDTH, WIDTH), "attn_v": (KEYS, WIDTH), "ffn_down": (WIDTH, FFN)}
"""Rows and columns of the matrices that are adapted."""


def write(
    path: Path,
    *,
    seed: int = 1,
    scale: float = 0.06,
    rank: int = 4,
    layers: int = LAYERS,
    family: str = "llama",
    kind: str = "lora",
    more: Sequence[tuple[str, tuple[int, ...]]] = (),
    keys: int = KEYS,
) -> Adapter:
    """The larger `scale`, the more other words; `more` are further tensors, by name and shape."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, family)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", float(rank))
    sizes = {**SHAPES, "attn_v": (keys, WIDTH)}
    random = np.random.default_rng(seed)
    for layer in range(layers):
        for name, (rows, columns) in sizes.items():
            for part, size in (("a", (rank, columns)), ("b", (rows, rank))):
                matrix = scale * random.standard_normal(size, np.float32)
                writer.add_tensor(f"blk.{layer}.{name}.weight.lora_{part}", matrix)
    for name, shape in more:
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Adapter(path.stem, hashlib.sha256(path.read_bytes()).hexdigest(), str(path))

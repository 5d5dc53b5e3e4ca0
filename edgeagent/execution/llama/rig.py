"""Rigs: small synthetic decoders of one weight type, on which a machine's arithmetic is timed. Runs in a worker.

Weights are random; speed does not depend on their values. One layer is quantised by llama.cpp itself and written as
often as wanted, so that a rig of any size takes as long as writing its file.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama.quantize import quantize_purely

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VOCAB = 256
SCALE = 0.02
"""Standard deviation of the weights, as models are initialised with: logits and activations stay finite."""


@dataclass(frozen=True, slots=True)
class RigShape:
    """A llama-architecture decoder; `kind` is ggml's name of its matrices' type (`Q4_K`, `F16`)."""

    kind: str
    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    context_tokens: int

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Name to `(rows, columns)` of one layer's weights."""
        square, narrow = (self.width, self.width), (self.width // self.heads * self.kv_heads, self.width)
        return {
            "attn_q": square, "attn_k": narrow, "attn_v": narrow, "attn_output": square,
            "ffn_gate": (self.ffn, self.width), "ffn_up": (self.ffn, self.width), "ffn_down": (self.width, self.ffn),
        }  # fmt: skip


def write_rig(shape: RigShape, target: str) -> int:
    """Write the rig; its weights (elements) in all layers. Raises EngineError for a type that cannot be made."""
    with tempfile.TemporaryDirectory(dir=Path(target).parent) as folder:
        source, layer = Path(folder) / "f16.gguf", Path(folder) / "layer.gguf"
        _write(source, shape, 1, _random(shape))
        if shape.kind == "F16":
            layer = source
        else:
            quantize_purely(str(source), str(layer), shape.kind)
        _write(Path(target), shape, shape.layers, _tensors(layer))
    return shape.layers * sum(rows * columns for rows, columns in shape.matrices().values())


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: int
    data: "NDArray[np.generic]"


def _random(shape: RigShape) -> dict[str, _Tensor]:
    import numpy as np

    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> _Tensor:
        return _Tensor(1, (SCALE * draw.standard_normal((rows, columns), np.float32)).astype(np.float16))

    norm = _Tensor(0, np.ones(shape.width, np.float32))
    tensors = {f"blk.0.{name}.weight": matrix(*size) for name, size in shape.matrices().items()}
    tensors |= {f"blk.0.{name}.weight": norm for name in ("attn_norm", "ffn_norm")}
    return tensors | {"token_embd.weight": matrix(VOCAB, shape.width), "output_norm.weight": norm}


def _tensors(path: Path) -> dict[str, _Tensor]:
    """The tensors of a file that was just made here (a foreign one would go through the bounded header reader)."""
    from gguf import GGUFReader

    return {t.name: _Tensor(int(t.tensor_type), t.data) for t in GGUFReader(str(path)).tensors}


def _write(path: Path, shape: RigShape, layers: int, tensors: Mapping[str, _Tensor]) -> None:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(shape.context_tokens)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    for name, tensor in tensors.items():
        copies = [name.replace("blk.0.", f"blk.{i}.") for i in range(layers)] if name.startswith("blk.0.") else [name]
        for copy in copies:
            writer.add_tensor(copy, tensor.data, raw_dtype=GGMLQuantizationType(tensor.kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def shape_of(params: Mapping[str, object]) -> RigShape:
    """Raises EngineError for a shape that no rig can have."""
    numbers = {k: int(str(params[k])) for k in ("layers", "width", "ffn", "heads", "kv_heads", "context_tokens")}
    if min(numbers.values()) < 1 or numbers["width"] % numbers["heads"] or numbers["heads"] % numbers["kv_heads"]:
        raise EngineError(f"no rig has the shape {numbers}; give positive numbers and heads that divide the width")
    return RigShape(kind=str(params["kind"]), **numbers)

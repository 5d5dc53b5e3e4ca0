"""Writes tiny decoders of any family, tensor by tensor as `layout` lists them, and quantises them with llama.cpp."""

import ctypes
from collections.abc import Iterator
from pathlib import Path

from edgeagent.core.cards import Architecture
from edgeagent.execution.llama.library import llama
from edgeagent.model.gguf_header import GgufHeader, read_header
from edgeagent.model.layout import POST_NORM_FAMILIES, QK_NORM_FAMILIES, QKV_BIAS_FAMILIES, Role, Tensor, tensors

SEED = 7


def write(path: Path, shape: Architecture) -> None:
    """A sound GGUF file of this shape with random F16 weights and no vocabulary."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, shape.family)
    for key, value in _counts(shape).items():
        writer.add_uint32(f"{shape.family}.{key}", value)
    writer.add_float32(f"{shape.family}.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tokenizer_model("no_vocab")
    random = np.random.default_rng(SEED)
    for tensor in tensors(shape):
        for name, size in _named(tensor, shape):
            matrix = random.standard_normal(size, np.float32)
            writer.add_tensor(
                name, matrix if len(size) == 1 or tensor.role is Role.ROUTER else matrix.astype(np.float16)
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantised(source: Path, file_type: str, *, imatrix: bool = False) -> GgufHeader:
    """The header of the file that llama.cpp's quantiser makes of `source`; `imatrix`: of even importance."""
    bindings, target = llama(), source.with_suffix(f".{file_type}.gguf")
    params = bindings.llama_model_quantize_default_params()
    params.ftype = getattr(bindings, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    params.nthread = 2
    if imatrix:
        params.imatrix = _even_importance(source)
    assert bindings.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0
    header = _header(target)
    target.unlink()
    return header


def _header(path: Path) -> GgufHeader:
    with path.open("rb") as file:
        return read_header(file, path.name)


def _even_importance(source: Path) -> object:
    """A weight of 1 for each column of each matrix, ended by an entry without a name."""
    matrices = [tensor for tensor in _header(source).tensors if len(tensor.shape) > 1]
    entries: list[ctypes.Structure] = []
    for tensor in matrices:
        size = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1)
        ones = (ctypes.c_float * size)(*[1.0] * size)
        pointer = ctypes.cast(ones, ctypes.POINTER(ctypes.c_float))
        entries.append(llama().llama_model_imatrix_data(tensor.name.encode(), pointer, size))
    entries.append(llama().llama_model_imatrix_data(None, None, 0))
    return (llama().llama_model_imatrix_data * len(entries))(*entries)


def _counts(shape: Architecture) -> dict[str, int]:
    counts = {
        "block_count": shape.layers,
        "context_length": shape.context_tokens,
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn,
        "vocab_size": shape.vocab,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "rope.dimension_count": shape.head_dim,
    }
    if shape.experts:
        used = {"expert_count": shape.experts.count, "expert_used_count": shape.experts.used}
        counts |= {**used, "expert_feed_forward_length": shape.experts.ffn}
    if shape.sliding_window:
        counts["attention.sliding_window"] = shape.sliding_window
    return counts


def _named(tensor: Tensor, shape: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and (numpy-ordered) sizes in the file; the vectors of a layer one by one."""
    if tensor.layer is None:
        name = "output_norm" if tensor.role is Role.VECTOR else tensor.role
        yield f"{name}.weight", (tensor.columns,) if tensor.role is Role.VECTOR else (tensor.rows, tensor.columns)
    elif tensor.role is Role.VECTOR:
        yield from ((f"blk.{tensor.layer}.{name}", (size,)) for name, size in _vectors(shape).items())
    elif tensor.experts > 1:
        yield f"blk.{tensor.layer}.{tensor.role}_exps.weight", (tensor.experts, tensor.rows, tensor.columns)
    else:
        yield f"blk.{tensor.layer}.{tensor.role}.weight", (tensor.rows, tensor.columns)


def _vectors(shape: Architecture) -> dict[str, int]:
    vectors = {"attn_norm.weight": shape.width, "ffn_norm.weight": shape.width}
    if shape.family in QK_NORM_FAMILIES:
        vectors |= {"attn_q_norm.weight": shape.head_dim, "attn_k_norm.weight": shape.head_dim}
    if shape.family in POST_NORM_FAMILIES:
        vectors |= {"post_attention_norm.weight": shape.width, "post_ffw_norm.weight": shape.width}
    if shape.family in QKV_BIAS_FAMILIES:
        keys = shape.kv_heads * shape.head_dim
        vectors |= {"attn_q.bias": shape.heads * shape.head_dim, "attn_k.bias": keys, "attn_v.bias": keys}
    return vectors

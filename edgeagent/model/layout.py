"""Which tensors a decoder of a given shape has in its GGUF file. Pure.

Names and shapes are those of llama.cpp's model classes (src/models/*.cpp, the release of llama-cpp-python 0.3.36) for
the families of our cards; a family that is not named here is taken to be built like Llama.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from edgeagent.core.cards import Architecture


class Role(StrEnum):
    """What a tensor does; the value is its name in the file, without block number and `.weight`."""

    EMBEDDING = "token_embd"
    HEAD = "output"
    QUERY = "attn_q"
    KEY = "attn_k"
    VALUE = "attn_v"
    QUERY_KEY_VALUE = "attn_qkv"
    ATTENTION_OUTPUT = "attn_output"
    GATE = "ffn_gate"
    UP = "ffn_up"
    DOWN = "ffn_down"
    ROUTER = "ffn_gate_inp"
    VECTOR = "vector"
    """Norms and biases of a layer, or of the whole model, taken together; they stay F32."""


QKV_BIAS_FAMILIES = frozenset({"qwen2"})
QK_NORM_FAMILIES = frozenset({"qwen3", "qwen3moe", "gemma3"})
POST_NORM_FAMILIES = frozenset({"gemma3"})
FUSED_FAMILIES = frozenset({"phi3"})
"""One tensor holds query, key and value, and one holds gate and up."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """`columns`: values in a row, which are quantised together. `experts`: how many such matrices it stacks."""

    role: Role
    layer: int | None
    columns: int
    rows: int
    experts: int = 1

    @property
    def elements(self) -> int:
        return self.columns * self.rows * self.experts


def tensors(shape: Architecture) -> Iterator[Tensor]:
    """All tensors of the file: embedding, head unless it is shared, final norm, then layer by layer."""
    yield Tensor(Role.EMBEDDING, None, shape.width, shape.vocab)
    if not shape.tied_head:
        yield Tensor(Role.HEAD, None, shape.width, shape.vocab)
    yield Tensor(Role.VECTOR, None, shape.width, 1)
    for layer in range(shape.layers):
        yield from _attention(shape, layer)
        yield from _feed_forward(shape, layer)
        yield Tensor(Role.VECTOR, layer, _vector_elements(shape), 1)


def parameters(shape: Architecture) -> int:
    """Weights of the whole model, a shared table counted once."""
    return sum(tensor.elements for tensor in tensors(shape))


def _attention(shape: Architecture, layer: int) -> Iterator[Tensor]:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.family in FUSED_FAMILIES:
        yield Tensor(Role.QUERY_KEY_VALUE, layer, shape.width, queries + 2 * keys)
    else:
        yield Tensor(Role.QUERY, layer, shape.width, queries)
        yield Tensor(Role.KEY, layer, shape.width, keys)
        yield Tensor(Role.VALUE, layer, shape.width, keys)
    yield Tensor(Role.ATTENTION_OUTPUT, layer, queries, shape.width)


def _feed_forward(shape: Architecture, layer: int) -> Iterator[Tensor]:
    if shape.experts is not None:
        count, ffn = shape.experts.count, shape.experts.ffn
        yield Tensor(Role.ROUTER, layer, shape.width, count)
        yield Tensor(Role.GATE, layer, shape.width, ffn, count)
        yield Tensor(Role.UP, layer, shape.width, ffn, count)
        yield Tensor(Role.DOWN, layer, ffn, shape.width, count)
    else:
        fused = shape.family in FUSED_FAMILIES
        if not fused:
            yield Tensor(Role.GATE, layer, shape.width, shape.ffn)
        yield Tensor(Role.UP, layer, shape.width, 2 * shape.ffn if fused else shape.ffn)
        yield Tensor(Role.DOWN, layer, shape.ffn, shape.width)


def _vector_elements(shape: Architecture) -> int:
    elements = (4 if shape.family in POST_NORM_FAMILIES else 2) * shape.width
    if shape.family in QK_NORM_FAMILIES:
        elements += 2 * shape.head_dim
    if shape.family in QKV_BIAS_FAMILIES:
        elements += (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    return elements

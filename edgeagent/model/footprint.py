"""What memory a variant takes on a machine, before it is loaded. Pure arithmetic.

The parts are those of llama.cpp as workers use it. Their constants were measured with llama-cpp-python 0.3.36 on x86-64
(`VmHWM` and its parts in /proc/PID/status; `tools/bench/predict_memory.py` measures the whole again).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from edgeagent.core.cards import Architecture, KvType
from edgeagent.model.layout import Role, Tensor, tensors
from edgeagent.model.mixes import TYPES, type_of
from edgeagent.model.recipe import file_bytes, load_of, metadata_bytes
from edgeagent.resource.speed import Load

MIB = 2**20

PROCESS_BYTES = 56 * MIB
"""A worker with the engine's library and no model: 56.1 MiB, of which 32.4 are its own and 23.7 mapped libraries."""

SCORED_FAMILIES = frozenset({"gemma3"})
"""Families whose vocabulary has scores (SentencePiece); the others' have byte-pair merges."""
MERGED_VOCABULARY, SCORED_VOCABULARY = 11, 7
"""Bytes in memory for each byte of the vocabulary in the file: 18.7 MiB for 1.79 MB with merges (SmolLM2), 43.6 MiB for
6.53 MB with scores (Gemma 3)."""

Loading = Literal["mapped", "read", "paged"]
"""How weights come to memory. `mapped`: the file's pages, and beside them copies of what the engine repacks. `read`:
read into memory, repacked on the way, so nothing is there twice. `paged`: the file's pages, of which only a part stays
in memory, and no copies."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A variant's bytes by what becomes of them. `load` is None for a file type without a recipe."""

    file_bytes: int
    is_predicted: bool
    """Whether `file_bytes` is the recipe's: no such file was seen."""
    repacked_bytes: int
    """What this machine's engine keeps in another layout."""
    layer_bytes: int
    expert_bytes: int
    """Of the layers: experts, of which a token uses a few."""
    used_expert_bytes: int
    head_bytes: int
    load: Load | None

    @property
    def token_bytes(self) -> int:
        """Weights read for one token."""
        return self.layer_bytes - self.expert_bytes + self.used_expert_bytes + self.head_bytes

    @property
    def streamed_bytes(self) -> int:
        """What may be paged in from storage: experts, or the layers of a model without them."""
        return self.expert_bytes or self.layer_bytes


@dataclass(frozen=True, slots=True)
class Setup:
    """How a variant would be loaded. `resident_share`: of the streamed weights, what stays in memory when paged."""

    context_tokens: int
    kv_type: KvType
    flash_attention: bool
    chunk_tokens: int
    loading: Loading = "mapped"
    resident_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """A worker's peak, part by part, with its context full."""

    process_bytes: int
    vocabulary_bytes: int
    weight_bytes: int
    copy_bytes: int
    cache_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        program = self.process_bytes + self.vocabulary_bytes
        return program + self.weight_bytes + self.copy_bytes + self.cache_bytes + self.compute_bytes


@cache
def weigh(
    shape: Architecture, file_type: str, repacked: frozenset[str], known_bytes: int | None = None
) -> Weights | None:
    """A variant's weights; `repacked` names the tensor types that the engine copies here.

    None: the type has no recipe and no file of it was seen. Without a recipe, the seen file counts as wholly repacked.
    """
    try:
        predicted, load = file_bytes(shape, file_type), load_of(shape, file_type)
    except ValueError:
        if known_bytes is None:
            return None
        copies = known_bytes if repacked else 0
        return Weights(known_bytes, False, copies, known_bytes, 0, 0, 0, None)
    parts = list(_parts(shape, file_type))
    layers = sum(size for tensor, _, size in parts if tensor.layer is not None)
    experts = sum(size for tensor, _, size in parts if tensor.experts > 1)
    return Weights(
        file_bytes=known_bytes or predicted,
        is_predicted=known_bytes is None,
        repacked_bytes=sum(size for _, size in parts_of(shape, file_type, repacked)),
        layer_bytes=layers,
        expert_bytes=experts,
        used_expert_bytes=experts * shape.experts.used // shape.experts.count if shape.experts else 0,
        head_bytes=sum(size for tensor, _, size in parts if tensor.role is _head(shape)),
        load=load,
    )


def predict(shape: Architecture, weights: Weights, setup: Setup) -> Footprint:
    """The worker's peak. Every layer's cache has all positions: with sliding windows llama.cpp keeps them, too."""
    resident, copies = weights.file_bytes, 0
    if setup.loading == "mapped":
        copies = weights.repacked_bytes
    elif setup.loading == "paged":
        resident -= round(weights.streamed_bytes * (1 - setup.resident_share))
    growth = SCORED_VOCABULARY if shape.family in SCORED_FAMILIES else MERGED_VOCABULARY
    return Footprint(
        process_bytes=PROCESS_BYTES,
        vocabulary_bytes=growth * metadata_bytes(shape),
        weight_bytes=resident,
        copy_bytes=copies,
        cache_bytes=shape.kv_bytes_per_token(setup.kv_type) * setup.context_tokens,
        compute_bytes=_compute_bytes(shape, setup),
    )


def largest_context(shape: Architecture, weights: Weights, setup: Setup, memory_bytes: int) -> int:
    """Tokens of context that fit beside everything else; may be below one."""
    empty = predict(shape, weights, _with_context(setup, 0)).total_bytes
    grain = 4096
    per_token = (predict(shape, weights, _with_context(setup, grain)).total_bytes - empty) / grain
    return int((memory_bytes - empty) / per_token)


def _with_context(setup: Setup, tokens: int) -> Setup:
    return replace(setup, context_tokens=tokens)


def _compute_bytes(shape: Architecture, setup: Setup) -> int:
    """What a chunk touches of the compute buffers, in f32: activations, the logits of one token in three places, the
    attention mask; without flash attention, scores and their softmax for each head.

    (llama.cpp reserves more, logits for a whole chunk: pages that are never touched take no memory.)
    """
    activations = 3 * shape.width + 2 * shape.ffn + 2 * shape.heads * shape.head_dim
    touched = setup.chunk_tokens * (activations + setup.context_tokens) + 3 * shape.vocab
    if not setup.flash_attention:
        touched += 2 * setup.chunk_tokens * setup.context_tokens * shape.heads
    return 4 * touched


def parts_of(shape: Architecture, file_type: str, repacked: frozenset[str]) -> Iterator[tuple[int | None, int]]:
    """Layer (None: the output head) and bytes of every tensor that the engine copies into another layout."""
    for tensor, kind, size in _parts(shape, file_type):
        if kind in repacked and _is_applied(tensor, shape):
            yield tensor.layer, size


def _parts(shape: Architecture, file_type: str) -> Iterator[tuple[Tensor, str, int]]:
    """Every tensor with its type and bytes."""
    for tensor in tensors(shape):
        kind = type_of(tensor, shape, file_type)
        stored = TYPES[kind]
        yield tensor, kind, tensor.elements // stored.block_elements * stored.block_bytes


def _is_applied(tensor: Tensor, shape: Architecture) -> bool:
    """Whether a tensor is multiplied with, not only looked up: a head that is the embedding table is both."""
    if tensor.role is Role.VECTOR:
        return False
    return tensor.layer is not None or tensor.role is _head(shape)


def _head(shape: Architecture) -> Role:
    return Role.EMBEDDING if shape.tied_head else Role.HEAD

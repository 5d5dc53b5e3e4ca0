"""How llama.cpp's quantiser chooses a type for each tensor of a file. Pure.

Read from llama.cpp's src/llama-quant.cpp (the release of llama-cpp-python 0.3.36), and held to it by tests that run
the quantiser. A file type is a mix: a usual type, and exceptions for tensors where bits pay most. Not covered, since
no card needs them: Falcon, models of 70 billion parameters, and types that demand an importance matrix.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeagent.core.cards import Architecture
from edgeagent.model.gguf_types import TENSOR_TYPES
from edgeagent.model.layout import Role, Tensor

TYPES = {known.name: known for known in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True)
class Place:
    """What the exceptions look at."""

    layer: int
    layers: int
    heads_per_kv_head: int
    has_eight_experts: bool
    imatrix: bool


Condition = Callable[[Place], bool]
Rule = tuple[Condition, str]


def _always(_: Place) -> bool:
    return True


def _sensitive(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third one between."""
    eighth = place.layers // 8
    return place.layer < eighth or place.layer >= 7 * place.layers // 8 or (place.layer - eighth) % 3 == 2


def _shared(place: Place) -> bool:
    """Four heads or more read the same keys and values: better ones cost little."""
    return place.heads_per_kv_head >= 4


def _sensitive_of_eight_experts(place: Place) -> bool:
    return place.has_eight_experts and _sensitive(place)


def _first(count: int) -> Condition:
    return lambda place: place.layer < count


def _first_part(divisor: int, *, imatrix: bool | None = None) -> Condition:
    """The first 1/divisor of the layers; `imatrix`: only with, or only without, an importance matrix."""
    return lambda p: p.layer < p.layers // divisor and (imatrix is None or imatrix == p.imatrix)


@dataclass(frozen=True, slots=True)
class Mix:
    """A file type: for each role, the first rule that holds names the type, else it is the usual one."""

    usual: str
    value: tuple[Rule, ...] = ()
    """Also of a fused query-key-value tensor."""
    down: tuple[Rule, ...] = ()
    attention_output: str | None = None
    eight_experts_output: str | None = None
    """Attention output in models of just eight experts (Mixtral)."""


MIXES: Mapping[str, Mix] = {
    **{plain: Mix(plain) for plain in ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_1", "Q4_1")},
    "Q5_K_M": Mix("Q5_K", value=((_sensitive, "Q6_K"),), down=((_sensitive, "Q6_K"),)),
    "Q5_K_S": Mix("Q5_K"),
    "Q5_0": Mix("Q5_0", down=((_first_part(8, imatrix=True), "Q5_1"),)),
    "Q4_K_M": Mix("Q4_K", value=((_sensitive, "Q6_K"),), down=((_sensitive, "Q6_K"),), eight_experts_output="Q5_K"),
    "Q4_K_S": Mix("Q4_K", value=((_first(4), "Q5_K"),), down=((_first_part(8), "Q5_K"),), eight_experts_output="Q5_K"),
    "Q4_0": Mix("Q4_0", down=((_first_part(8, imatrix=True), "Q4_1"),)),
    "IQ4_NL": Mix(
        "IQ4_NL",
        value=((_shared, "Q5_K"),),
        down=((_first_part(8, imatrix=False), "Q5_K"),),
        eight_experts_output="Q5_K",
    ),
    "IQ4_XS": Mix(
        "IQ4_XS",
        value=((_shared, "Q5_K"),),
        down=((_first_part(8, imatrix=False), "Q5_K"),),
        eight_experts_output="Q5_K",
    ),
    "Q3_K_L": Mix("Q3_K", value=((_always, "Q5_K"),), down=((_always, "Q5_K"),), attention_output="Q5_K"),
    "Q3_K_M": Mix(
        "Q3_K",
        value=((_first(2), "Q5_K"), (_always, "Q4_K")),
        down=((_first_part(16), "Q5_K"), (_always, "Q4_K")),
        attention_output="Q4_K",
        eight_experts_output="Q5_K",
    ),
    "Q3_K_S": Mix("Q3_K", eight_experts_output="Q5_K"),
    "IQ3_M": Mix(
        "IQ3_S",
        value=((_always, "Q4_K"),),
        down=((_first_part(8), "Q4_K"), (_sensitive_of_eight_experts, "Q4_K")),
        attention_output="Q4_K",
        eight_experts_output="Q5_K",
    ),
    "IQ3_S": Mix("IQ3_S", value=((_shared, "Q4_K"),), eight_experts_output="Q5_K"),
    "Q2_K": Mix(
        "Q2_K",
        value=((_shared, "Q4_K"), (_always, "Q3_K")),
        down=((_always, "Q3_K"),),
        attention_output="Q3_K",
        eight_experts_output="Q5_K",
    ),
}

FALLBACKS = {
    "IQ4_XS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""A 32-value type for each 256-value one, where a row is no multiple of 256."""
UNQUANTISED = frozenset({"F32", "F16", "BF16"})
FALLBACK_OF_FALLBACKS = "F16"


def type_of(tensor: Tensor, shape: Architecture, file_type: str, *, imatrix: bool = False) -> str:
    """ggml's name of the type this tensor gets. Raises ValueError for a file type that is not known here."""
    if file_type not in MIXES:
        raise ValueError(f"file type '{file_type}' is not known; known are {', '.join(MIXES)}")
    mix = MIXES[file_type]
    if tensor.role in (Role.VECTOR, Role.ROUTER):
        return "F32"
    if mix.usual in UNQUANTISED:
        return mix.usual
    return _fitting(_wanted(mix, tensor, shape, imatrix=imatrix), tensor.columns)


def _wanted(mix: Mix, tensor: Tensor, shape: Architecture, *, imatrix: bool) -> str:
    has_eight = shape.experts is not None and shape.experts.count == 8
    place = Place(tensor.layer or 0, shape.layers, shape.heads // shape.kv_heads, has_eight, imatrix)
    match tensor.role:
        case Role.HEAD:
            return _head(mix)
        case Role.EMBEDDING:
            return _head(mix) if shape.tied_head else mix.usual
        case Role.VALUE | Role.QUERY_KEY_VALUE:
            return "Q8_0" if has_eight else _chosen(mix.value, place, mix.usual)
        case Role.KEY if has_eight:
            return "Q8_0"
        case Role.ATTENTION_OUTPUT:
            return (mix.eight_experts_output if has_eight else mix.attention_output) or mix.usual
        case Role.DOWN:
            return _chosen(mix.down, place, mix.usual)
    return mix.usual


def _head(mix: Mix) -> str:
    return "Q8_0" if mix.usual == "Q8_0" else "Q6_K"


def _chosen(rules: tuple[Rule, ...], place: Place, usual: str) -> str:
    return next((kind for condition, kind in rules if condition(place)), usual)


def _fitting(kind: str, columns: int) -> str:
    for candidate in (kind, FALLBACKS.get(kind, kind)):
        if columns % TYPES[candidate].block_elements == 0:
            return candidate
    return FALLBACK_OF_FALLBACKS

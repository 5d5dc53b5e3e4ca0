"""How llama.cpp's quantiser chooses a type for each tensor of a file. Pure.

Read from llama.cpp's src/llama-quant.cpp (the release of llama-cpp-python 0.3.36), and held to it by tests that run
the quantiser. A file type is a mix: a usual type, and exceptions for tensors where bits pay most. Not covered, since
no card needs them: Falcon, models of 70 billion parameters, one- and two-bit types of 64 values, and MXFP4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
    experts: int
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


def _few(place: Place) -> bool:
    """Just eight experts (Mixtral): what all tokens pass is a small part of the file."""
    return place.experts == 8


def _shared_or_expert(place: Place) -> bool:
    return _shared(place) or place.experts >= 4


def _sensitive_of_few(place: Place) -> bool:
    return _few(place) and _sensitive(place)


def _middle(place: Place) -> bool:
    return place.layers // 8 <= place.layer < 7 * place.layers // 8


def _unguided(place: Place) -> bool:
    return not place.imatrix


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
    attention_output: tuple[Rule, ...] = ()
    key: tuple[Rule, ...] = ()
    query: tuple[Rule, ...] = ()
    gate_up: tuple[Rule, ...] = ()
    embedding: str | None = None
    """Of the embedding table, where it is not the head too."""
    head: str = "Q6_K"


def _keeping(mix: Mix) -> Mix:
    """The same, with keys and values of models with few experts kept at eight bits."""
    kept: Rule = (_few, "Q8_0")
    return replace(mix, value=(kept, *mix.value), key=(kept, *mix.key))


SENSITIVE: tuple[Rule, ...] = ((_sensitive, "Q6_K"),)
GUARDED: tuple[Rule, ...] = ((_first_part(8, imatrix=False), "Q5_K"),)
FEW: Rule = (_few, "Q5_K")

FOUR_BITS_AND_MORE = {
    **{plain: Mix(plain) for plain in ("Q6_K", "Q5_1", "Q4_1")},
    "Q8_0": Mix("Q8_0", head="Q8_0"),
    "Q5_K_M": Mix("Q5_K", value=SENSITIVE, down=SENSITIVE),
    "Q5_K_S": Mix("Q5_K"),
    "Q5_0": Mix("Q5_0", down=((_first_part(8, imatrix=True), "Q5_1"),)),
    "Q4_K_M": Mix("Q4_K", value=SENSITIVE, down=SENSITIVE, attention_output=(FEW,)),
    "Q4_K_S": Mix("Q4_K", value=((_first(4), "Q5_K"),), down=((_first_part(8), "Q5_K"),), attention_output=(FEW,)),
    "Q4_0": Mix("Q4_0", down=((_first_part(8, imatrix=True), "Q4_1"),)),
    "IQ4_NL": Mix("IQ4_NL", value=((_shared, "Q5_K"),), down=GUARDED, attention_output=(FEW,)),
    "IQ4_XS": Mix("IQ4_XS", value=((_shared, "Q5_K"),), down=GUARDED, attention_output=(FEW,)),
}

THREE_BITS = {
    "Q3_K_L": Mix(
        "Q3_K",
        value=((_always, "Q5_K"),),
        down=((_always, "Q5_K"),),
        attention_output=((_few, "Q3_K"), (_always, "Q5_K")),
    ),
    "Q3_K_M": Mix(
        "Q3_K",
        value=((_first(2), "Q5_K"), (_always, "Q4_K")),
        down=((_first_part(16), "Q5_K"), (_always, "Q4_K")),
        attention_output=(FEW, (_always, "Q4_K")),
    ),
    "Q3_K_S": Mix("Q3_K", attention_output=(FEW,)),
    "IQ3_M": Mix(
        "IQ3_S",
        value=((_always, "Q4_K"),),
        down=((_first_part(8), "Q4_K"), (_sensitive_of_few, "Q4_K")),
        attention_output=(FEW, (_always, "Q4_K")),
    ),
    "IQ3_S": Mix("IQ3_S", value=((_shared, "Q4_K"),), attention_output=(FEW,)),
    "IQ3_XS": Mix(
        "IQ3_S",
        value=((_shared, "Q4_K"),),
        key=((_always, "IQ3_XXS"),),
        query=((_always, "IQ3_XXS"),),
        gate_up=((_middle, "IQ3_XXS"),),
        attention_output=(FEW,),
    ),
    "IQ3_XXS": Mix(
        "IQ3_XXS",
        value=((_shared, "Q4_K"), (_unguided, "IQ3_S")),
        down=((_first_part(8, imatrix=False), "Q4_K"), (_unguided, "Q3_K")),
        key=((_always, "IQ2_S"),),
        query=((_always, "IQ2_S"),),
        attention_output=(FEW, (_always, "IQ3_S")),
        embedding="IQ3_S",
        head="Q5_K",
    ),
}

TWO_BITS = {
    "Q2_K": Mix(
        "Q2_K",
        value=((_shared, "Q4_K"), (_always, "Q3_K")),
        down=((_always, "Q3_K"),),
        attention_output=(FEW, (_always, "Q3_K")),
    ),
    "Q2_K_S": Mix("Q2_K", value=((_shared, "Q4_K"),), down=((_first_part(8), "Q4_K"),)),
    "TQ2_0": Mix("TQ2_0", embedding="Q4_K"),
    "TQ1_0": Mix("TQ1_0", embedding="Q4_K"),
}


def _smallest(usual: str, better: str, embedding: str, *, output: str | None = None) -> Mix:
    """The types that cannot do without an importance matrix: `better` where bits pay most."""
    return Mix(
        usual,
        value=((_shared_or_expert, "Q4_K"), (_always, better)),
        down=((_first_part(8), better),),
        key=((_few, "Q4_K"),),
        attention_output=(FEW, (_always, output or usual)),
        embedding=embedding,
        head="Q5_K",
    )


SMALLEST = {
    "IQ2_M": _smallest("IQ2_S", "IQ3_S", "IQ3_S", output="IQ3_S"),
    "IQ2_S": _smallest("IQ2_XS", "IQ3_S", "IQ3_S", output="IQ3_S"),
    "IQ2_XS": _smallest("IQ2_XS", "Q2_K", "Q2_K"),
    "IQ2_XXS": _smallest("IQ2_XXS", "Q2_K", "Q2_K"),
    "IQ1_M": _smallest("IQ1_M", "Q2_K", "Q2_K", output="IQ2_XXS"),
    "IQ1_S": _smallest("IQ1_S", "Q2_K", "Q2_K", output="IQ2_XXS"),
}

MIXES: Mapping[str, Mix] = {
    **{plain: Mix(plain) for plain in ("F32", "F16", "BF16")},
    **{name: _keeping(mix) for name, mix in (FOUR_BITS_AND_MORE | THREE_BITS | TWO_BITS).items()},
    **SMALLEST,
}
NEED_IMATRIX = frozenset({"IQ3_XXS", "IQ3_XS", "Q2_K_S", *SMALLEST})
"""The quantiser refuses these without an importance matrix."""

FALLBACKS = {
    **dict.fromkeys(("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
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
    experts = shape.experts.count if shape.experts else 1
    place = Place(tensor.layer or 0, shape.layers, shape.heads // shape.kv_heads, experts, imatrix)
    match tensor.role:
        case Role.HEAD:
            return _head(mix, tensor.columns)
        case Role.EMBEDDING:
            return _head(mix, tensor.columns) if shape.tied_head else mix.embedding or mix.usual
    return next((kind for holds, kind in _rules(mix, tensor.role) if holds(place)), mix.usual)


def _head(mix: Mix, columns: int) -> str:
    return "Q8_0" if columns % TYPES[mix.usual].block_elements else mix.head


def _rules(mix: Mix, role: Role) -> tuple[Rule, ...]:
    match role:
        case Role.VALUE | Role.QUERY_KEY_VALUE:
            return mix.value
        case Role.KEY:
            return mix.key
        case Role.QUERY:
            return mix.query
        case Role.ATTENTION_OUTPUT:
            return mix.attention_output
        case Role.GATE | Role.UP:
            return mix.gate_up
        case Role.DOWN:
            return mix.down
    return ()


def _fitting(kind: str, columns: int) -> str:
    for candidate in (kind, FALLBACKS.get(kind, kind)):
        if columns % TYPES[candidate].block_elements == 0:
            return candidate
    return FALLBACK_OF_FALLBACKS

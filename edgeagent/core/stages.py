"""Stages of a model that runs in two places: where it is cut, what travels between, and what both must agree on."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeagent.core.cards import KvType, Sha256
from edgeagent.core.errors import PeerError, RequestError

HiddenType = Literal["f32", "f16", "int8"]
"""How hidden states travel: `f32` is exact, the others are lossy."""
HIDDEN_TYPES: tuple[HiddenType, ...] = ("f32", "f16", "int8")

HIDDEN_BLOCK = 64
"""Values that share a scale in `int8`. A token with massive activations (|h| = 758 against an rms of 6, measured with
SmolLM2-135M) makes one scale a token useless."""
SCALE_BYTES = 2

MAX_PLANES = 2048
MAX_TOLD = 160
"""Characters of a value that somebody else may put into an error message."""

SOURCE_KEY, BEGIN_KEY, END_KEY, LAYERS_KEY = (
    f"edgeagent.stage.{name}" for name in ("source_sha256", "begin", "end", "layers")
)
"""Metadata keys of a stage's file: the hash of the file it was cut from, its layers `[begin, end)`, and how many that
file has."""


def hidden_row_bytes(hidden: HiddenType, width: int) -> int:
    """Bytes of one token's hidden state as it travels: in `int8`, the f16 scales of its blocks, then the values."""
    if hidden == "int8":
        return width + SCALE_BYTES * -(-width // HIDDEN_BLOCK)
    return width * (4 if hidden == "f32" else 2)


class Cut(BaseModel):
    """Layers `[begin, end)` of a model of `layers`.

    A head begins with the token table; a tail ends with the output head; `[layers, layers)` is the output head alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    begin: int = Field(ge=0)
    end: int = Field(gt=0)
    layers: int = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> "Cut":
        if self.end > self.layers or (self.begin >= self.end and not self.is_output):
            raise ValueError(f"{self.begin}:{self.end} are no layers of {self.layers}")
        return self

    @classmethod
    def of(cls, begin: int, end: int, layers: int) -> "Cut":
        """Raises RequestError for layers that are not there."""
        try:
            return cls(begin=begin, end=end, layers=layers)
        except ValidationError:
            raise RequestError(f"{begin}:{end} are no layers of {layers}; name some of 0:{layers}") from None

    @property
    def is_output(self) -> bool:
        return self.begin == self.end == self.layers

    @property
    def is_head(self) -> bool:
        return self.begin == 0

    @property
    def num_blocks(self) -> int:
        """Layers that the stage's file has: llama.cpp knows no model without any."""
        return max(1, self.end - self.begin)

    def metadata(self) -> dict[str, int]:
        return {BEGIN_KEY: self.begin, END_KEY: self.end, LAYERS_KEY: self.layers}


class Padding(BaseModel):
    """What a head's file of `layers` is loaded with, one layer more that is never computed: names and shapes of its
    tensors, innermost size first. `num_tensors` are in the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(max_length=64)
    layers: int = Field(gt=0)
    num_tensors: int = Field(gt=0)
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = Field(min_length=1)


class StageDescriptor(BaseModel):
    """What two stages must have in common for their work to add up to the whole model's, bit for bit.

    Both ends make theirs from what they have loaded, exchange them, and go on only if they are equal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(max_length=64)
    variant_sha256: Sha256
    """Of the whole file."""
    k: int = Field(gt=0)
    """The first stage has layers `[0, k)`."""
    layers: int = Field(gt=1)
    width: int = Field(gt=0)
    hidden: HiddenType
    kv_type: KvType
    kv_planes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(max_length=MAX_PLANES)]
    """Row bytes of K of each layer from `k` on, then of V; empty where the cache cannot be exchanged."""
    flash_attention: bool
    extra_buffers: bool
    chunk_tokens: int = Field(gt=0)
    threads: int = Field(ge=0)
    """0: their number changes no bit."""
    engine: str = Field(max_length=64)
    """Build of the engine."""
    system: str = Field(max_length=2048)
    """Instruction sets and switches, as the engine reports them."""

    def check_same(self, theirs: "StageDescriptor") -> None:
        """Raises PeerError, naming the first difference."""
        ours = self.model_dump()
        for key, value in theirs.model_dump().items():
            if value != ours[key]:
                here, there = (repr(each)[:MAX_TOLD] for each in (ours[key], value))
                raise PeerError(f"the stages do not fit: {key} is {here} here and {there} there; use another plan")

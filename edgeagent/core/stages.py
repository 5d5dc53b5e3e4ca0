"""Stages of a model that runs in two places: where it is cut, and what travels between them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeagent.core.errors import RequestError

HiddenType = Literal["f32", "f16", "int8"]
"""How hidden states travel: `f32` is exact, the others are lossy."""
HIDDEN_TYPES: tuple[HiddenType, ...] = ("f32", "f16", "int8")

WIRE_BITS: dict[HiddenType, int] = {"f32": 32, "f16": 16, "int8": 8}
"""Of a value on the wire; `int8` has its scales besides."""
WIRE_KL: dict[HiddenType, float] = {"f16": 0.0036, "int8": 0.0048}
"""Mean KL divergence in nats of the next token's distribution from the exact wire's, where there is one. Measured with
SmolLM2-135M-Instruct Q4_1 cut at 8, 20 documents of 200 tokens (tools/bench/exactness_lossy.py)."""

HIDDEN_BLOCK = 64
"""Values that share a scale in `int8`. A token with massive activations (|h| = 758 against an rms of 6, measured with
SmolLM2-135M) makes one scale a token useless."""
SCALE_BYTES = 2

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

    A head begins with the token table; a tail ends with the output head; a middle does neither; `[layers, layers)` is
    the output head alone.
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
    def ends_inside(self) -> bool:
        """Whether other layers come behind: it gives hidden states of all its tokens, as a head and a middle do."""
        return self.end < self.layers

    @property
    def num_blocks(self) -> int:
        """Layers that the stage's file has: llama.cpp knows no model without any."""
        return max(1, self.end - self.begin)

    def metadata(self) -> dict[str, int]:
        return {BEGIN_KEY: self.begin, END_KEY: self.end, LAYERS_KEY: self.layers}


class Padding(BaseModel):
    """What the file of a head or a middle of `layers` is loaded with, one layer more that is never computed: names and
    shapes of its tensors, innermost size first. `num_tensors` are in the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = Field(max_length=64)
    layers: int = Field(gt=0)
    num_tensors: int = Field(gt=0)
    tensors: tuple[tuple[str, tuple[int, ...]], ...] = Field(min_length=1)

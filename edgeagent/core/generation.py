"""A Generation: everything that fixes an answer, so that any executor can extend it."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Sampling(BaseModel):
    """How a token is drawn. Temperature 0 is greedy; every draw is keyed by `(seed, position)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 40
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.05
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    grammar: str | None = None
    """GBNF with root rule `root`; None leaves tokens free."""


@dataclass(frozen=True, slots=True)
class Generation:
    """`(prompt, output so far, sampling)` for one variant: the unit of handover.

    `prompt` and `output` are token ids of the variant whose file has `variant_sha256`.
    """

    id: str
    variant_sha256: str
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    output: tuple[int, ...] = field(default=())

    def extended(self, token: int) -> "Generation":
        return replace(self, output=(*self.output, token))

    @property
    def num_left(self) -> int:
        return self.max_tokens - len(self.output)


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One accepted token: `position` counts from 0 in the output; `piece` is its bytes, maybe part of a character."""

    position: int
    token: int
    piece: bytes
    is_end: bool = False
    """True for an end-of-generation token, which is not part of the text."""

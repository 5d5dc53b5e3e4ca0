"""A Generation: everything that fixes an answer, so that any executor can extend it."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TOP_LOGPROBS = 20
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Sampling(BaseModel):
    """How a token is drawn. Temperature 0 is greedy; every draw is keyed by `(seed, position)`.

    The penalties look at the newest `penalty_window` tokens of prompt and output, as llama.cpp's do; 0 looks at none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 40
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.05
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Divides the logit of a token in the window when positive, multiplies it when negative."""
    presence_penalty: Penalty = 0.0
    """Taken off the logit of each token in the window."""
    frequency_penalty: Penalty = 0.0
    """Taken off as often as the token is in the window."""
    penalty_window: Annotated[int, Field(ge=0, le=2**16)] = 64
    logit_bias: Annotated[tuple[tuple[TokenId, Bias], ...], Field(max_length=1024)] = ()
    """`(token id, bias)`: added to the token's logit before anything else. Ids are of the variant's vocabulary."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Report each token's log-probability and that many of the most probable; None reports nothing."""
    grammar: str | None = None
    """GBNF with root rule `root`; None leaves tokens free."""

    @property
    def has_penalties(self) -> bool:
        """Whether a draw looks at the tokens of the prompt."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter by its card's `name`: what is in the file at `path` on this machine is told by `sha256`."""

    name: str
    sha256: str
    path: str


Span = tuple[int, int]
"""Positions `[begin, end)`."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """So many positions of the prompt are dropped from the cache once it was read, none of the `protected` ones.

    Which ones follows from the prompt and the engine's settings alone. The answer is another one than without.
    """

    num_dropped: int
    protected: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """`(prompt, output so far, sampling)` for one variant: the unit of handover.

    `prompt` and `output` are token ids of the variant whose file has `variant_sha256`. With an `adapter`, every token
    is evaluated with it; only who has it can extend this.
    """

    id: str
    variant_sha256: str
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    output: tuple[int, ...] = field(default=())
    adapter: Adapter | None = None
    pruning: Pruning | None = None

    def extended(self, token: int) -> "Generation":
        return replace(self, output=(*self.output, token))

    @property
    def num_left(self) -> int:
        return self.max_tokens - len(self.output)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that could have been drawn, and its natural log-probability."""

    token: int
    piece: bytes
    logprob: float


NO_ID = -1
"""Of a token that somebody else's server drew, which tells only its text."""


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One accepted token: `position` counts from 0 in the output; `piece` is its bytes, maybe part of a character."""

    position: int
    token: int
    piece: bytes
    is_end: bool = False
    """True for an end-of-generation token, which is not part of the text."""
    logprob: float | None = None
    """Of the model's own distribution, before penalties, bias, filters and grammar; None unless asked for."""
    top: tuple[Alternative, ...] = ()
    """The most probable tokens of that distribution, best first."""

"""Reads how tokens are drawn from an OpenAI request: chances, penalties, biases, log-probabilities, the answer's form.

Besides OpenAI's parameters it takes `top_k`, `min_p`, `repetition_penalty` and `penalty_window`, as other servers do.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from edgeagent.agent.grammar import ANY_OBJECT, answer_grammar
from edgeagent.application.http.errors import ParameterError
from edgeagent.application.http.shapes import Wire
from edgeagent.core.chat import JsonObject
from edgeagent.core.errors import RequestError
from edgeagent.core.generation import MAX_TOP_LOGPROBS, Bias, Penalty, Sampling

SEEDS = 2**32
SMALLEST_TOP_P = 1e-6
"""OpenAI allows `top_p` 0, which keeps the most probable token only; so does this."""

LogitBias = Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias], Field(max_length=1024)]


class WireJsonSchema(Wire):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    document: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None
    """Not asked: every answer here fits its schema, strict or not."""


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: WireJsonSchema | None = None

    def grammar(self) -> str | None:
        """Raises ParameterError for a schema that cannot be promised."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return answer_grammar(ANY_OBJECT)
        param = "response_format.json_schema"
        if self.json_schema is None:
            raise ParameterError(f"parameter '{param}': type json_schema needs it; add it", param)
        try:
            return answer_grammar(ANY_OBJECT if self.json_schema.document is None else self.json_schema.document)
        except RequestError as error:
            raise ParameterError(f"parameter '{param}.schema': {error}", f"{param}.schema") from None


class WireSampling(Wire):
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    penalty_window: Annotated[int, Field(ge=0, le=2**16)] | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None

    def sampling(self, draw_seed: Callable[[], int]) -> Sampling:
        """Raises ParameterError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("top_logprobs needs logprobs; set logprobs to true", "top_logprobs")
        named: dict[str, Any] = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "top_p": None if self.top_p is None else max(self.top_p, SMALLEST_TOP_P),
            # OpenAI's seeds are any integer; equal ones stay equal here.
            "seed": (draw_seed() if self.temperature else None) if self.seed is None else self.seed % SEEDS,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "penalty_window": self.penalty_window,
            "logit_bias": tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "grammar": self.response_format.grammar() if self.response_format else None,
        }
        return Sampling(**{key: value for key, value in named.items() if value is not None})

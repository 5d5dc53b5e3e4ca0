"""Chat messages, tools and requests, in the shape the OpenAI API gave the field."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgeagent.core.generation import Sampling
from edgeagent.core.plan import PlanKind, ReductionLevel

Role = Literal["system", "user", "assistant", "tool"]
JsonObject = dict[str, Any]
"""A JSON schema, or arguments that fit one: `Any` ends here, at the border."""


class Frozen(BaseModel):
    """Immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolCall(Frozen):
    """One call a model wants made; `arguments` is a JSON document, as in the OpenAI API."""

    id: str
    name: str
    arguments: str


class Message(Frozen):
    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ToolSpec(Frozen):
    """What a model is told of a tool; `parameters` is a JSON schema of type object."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str = ""
    parameters: JsonObject = Field(default_factory=lambda: {"type": "object", "properties": {}})


class ToolChoice(Frozen):
    """`mode` as in the OpenAI API; `name` only with mode `named`."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None


class Document(Frozen):
    """Text given along with a question (`ask --file`): the part of a prompt that reduction may shorten."""

    source: str
    text: str


class Extension(Frozen):
    """The optional `edgeagent` object of a request."""

    plan: PlanKind | Literal["auto"] = "auto"
    reduce: ReductionLevel | Literal["auto"] = "auto"
    layout: Literal["stable", "as_given"] | None = None
    """Whether changing lines of the instructions are read last; None: as `policy.layout` says."""
    memory: bool = True
    agent: bool = False
    """Whether the assistant may use its own tools (clock, calculator, memory) for this request."""
    user: str | None = None
    policy: Literal["latency", "energy", "quality"] | None = None
    deadline_s: float | None = Field(default=None, gt=0)
    """From when the request came: it is not begun, and no plan is chosen, that would end later."""
    priority: Literal["interactive", "normal", "background"] = "normal"
    """Before whom it waits for the engine."""
    adapter: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] | None = None
    """A LoRA adapter of the model's card, by name."""
    cascade: bool = True
    """Whether a smaller model may answer first, where `models.cascade` names one."""


class ChatRequest(Frozen):
    """One question to the assistant, from any surface."""

    messages: tuple[Message, ...] = Field(min_length=1)
    documents: tuple[Document, ...] = ()
    model: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    sampling: Sampling = Sampling()
    max_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] = ()
    edgeagent: Extension = Extension()

"""What happens while a request is answered, in order: surfaces turn these into SSE, lines or pixels."""

from dataclasses import dataclass
from typing import Literal

from edgeagent.core.chat import ToolCall
from edgeagent.core.generation import TokenStep
from edgeagent.core.plan import AnswerReport, Decision, Handover, Recalled, ReductionReport

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class RecalledMemories:
    items: tuple[tuple[Recalled, str], ...]
    """Each recalled memory and its text."""


@dataclass(frozen=True, slots=True)
class Reduced:
    report: ReductionReport


@dataclass(frozen=True, slots=True)
class Planned:
    decision: Decision
    requested: bool
    """True when the caller named the plan; then the decision's `why` says so."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    tokens: tuple[TokenStep, ...] = ()
    """The tokens that this text is of, when log-probabilities were asked for; each token comes once."""


@dataclass(frozen=True, slots=True)
class ToolCalled:
    call: ToolCall
    index: int


@dataclass(frozen=True, slots=True)
class ToolReturned:
    call: ToolCall
    result: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class HandedOver:
    handover: Handover


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    usage: Usage
    report: AnswerReport


@dataclass(frozen=True, slots=True)
class Governed:
    """The engine is held back, or no longer: `reasons` holds now."""

    reasons: tuple[str, ...]


Event = Governed | RecalledMemories | Reduced | Planned | Text | ToolCalled | ToolReturned | HandedOver | Finished

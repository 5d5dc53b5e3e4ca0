"""Writes an answer's events as OpenAI chat completions: one document, or a stream of chunks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel

from edgeagent.core.chat import ToolCall
from edgeagent.core.errors import EngineError
from edgeagent.core.events import Event, Finished, Text, ToolCalled, ToolReturned, Usage
from edgeagent.core.generation import TokenStep

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """What every document of one answer repeats. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(slots=True)
class CallFilter:
    """Which tool calls the caller hears of: those of its own tools, numbered from 0, and one only if it said so.

    Calls of built-in tools are made here and answered in the text.
    """

    offered: frozenset[str]
    at_most_one: bool
    num_passed: int = 0

    def index(self, call: ToolCall) -> int | None:
        """The number of a call that passes, else None."""
        if call.name not in self.offered or (self.at_most_one and self.num_passed):
            return None
        self.num_passed += 1
        return self.num_passed - 1


@dataclass(slots=True)
class Completion:
    """Collects one answer into a `chat.completion` document."""

    head: Head
    calls: CallFilter
    _texts: list[str] = field(default_factory=list)
    _tokens: list[TokenStep] = field(default_factory=list)
    _calls: list[Json] = field(default_factory=list)
    _finished: Finished | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Text):
            self._texts.append(event.text)
            self._tokens += event.tokens
        elif isinstance(event, ToolCalled) and self.calls.index(event.call) is not None:
            self._calls.append(_call_body(event.call))
        elif isinstance(event, Finished):
            self._finished = event

    def body(self) -> Json:
        """Raises EngineError when the answer stopped without a result."""
        finished = _required(self._finished)
        message: Json = {"role": "assistant", "content": "".join(self._texts), "refusal": None}
        if self._calls:
            message |= {"content": message["content"] or None, "tool_calls": self._calls}
        told = logprobs_body(self._tokens)
        choice = {"index": 0, "message": message, "logprobs": told, "finish_reason": finished.reason}
        return {
            "id": self.head.id,
            "object": "chat.completion",
            "created": self.head.created,
            "model": self.head.model,
            "choices": [choice],
            "usage": _usage_body(finished.usage),
            "edgeagent": finished.report.model_dump(by_alias=True, mode="json"),
        }


@dataclass(slots=True)
class Chunks:
    """Turns one answer into `chat.completion.chunk` documents: the role first, the report in the last."""

    head: Head
    calls: CallFilter
    include_usage: bool
    with_events: bool
    _finished: Finished | None = None
    _is_open: bool = False

    def of(self, event: Event) -> list[Json]:
        """The chunks one event becomes; none for steps the caller did not ask to see."""
        if isinstance(event, Finished):
            self._finished = event
            return self._opened([])
        if isinstance(event, Text):
            return self._opened([self._delta({"content": event.text}, logprobs=logprobs_body(event.tokens))])
        if isinstance(event, ToolCalled) and (index := self.calls.index(event.call)) is not None:
            return self._opened([self._delta({"tool_calls": [{"index": index, **_call_body(event.call)}]})])
        if self.with_events and not _is_callers(event, self.calls.offered):
            return self._opened([self._delta({}) | {"edgeagent_event": event_body(event)}])
        return []

    def last(self) -> list[Json]:
        """The chunks that end the stream. Raises EngineError when the answer stopped without a result."""
        finished = _required(self._finished)
        chunks = [self._delta({}, finished.reason)]
        if self.include_usage:
            chunks.append(self._delta({}) | {"choices": [], "usage": _usage_body(finished.usage)})
        chunks[-1]["edgeagent"] = finished.report.model_dump(by_alias=True, mode="json")
        return chunks

    def _opened(self, chunks: list[Json]) -> list[Json]:
        if not self._is_open:
            self._is_open = True
            return [self._delta({"role": "assistant", "content": ""}), *chunks]
        return chunks

    def _delta(self, delta: Json, finish_reason: str | None = None, logprobs: Json | None = None) -> Json:
        chunk: Json = {
            "id": self.head.id,
            "object": "chat.completion.chunk",
            "created": self.head.created,
            "model": self.head.model,
            "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}],
        }
        return chunk | {"usage": None} if self.include_usage else chunk


def logprobs_body(tokens: Sequence[TokenStep]) -> Json | None:
    """OpenAI's `logprobs` of a choice; None when the answer has none."""
    content = [
        _token_body(step.piece, step.logprob) | {"top_logprobs": [_token_body(t.piece, t.logprob) for t in step.top]}
        for step in tokens
    ]
    return {"content": content, "refusal": None} if content else None


def _token_body(piece: bytes, logprob: float | None) -> Json:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}


def event_body(event: Event) -> Json:
    """One step of an answer as JSON: its kind in snake case, and its facts."""
    return {"type": _KINDS[type(event).__name__]} | {key: _plain(value) for key, value in asdict(event).items()}


_KINDS = {
    "RecalledMemories": "recalled_memories",
    "Reduced": "reduced",
    "Planned": "planned",
    "ToolCalled": "tool_called",
    "ToolReturned": "tool_returned",
    "HandedOver": "handed_over",
    "Governed": "governed",
}


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True, mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _is_callers(event: Event, offered: frozenset[str]) -> bool:
    return isinstance(event, ToolCalled | ToolReturned) and event.call.name in offered


def _call_body(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage_body(usage: Usage) -> Json:
    return asdict(usage) | {"total_tokens": usage.prompt_tokens + usage.completion_tokens}


def _required(finished: Finished | None) -> Finished:
    if finished is None:
        raise EngineError("the answer stopped without a result; ask again")
    return finished

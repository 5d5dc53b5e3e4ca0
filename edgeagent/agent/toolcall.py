"""Decides whether a conversation asks for a tool, and writes the call, with a model too small to do either freely.

The tool is chosen by `selection`, its arguments are narrowed by `arguments`; the model only chooses, under a
grammar, among what is left. When nothing is left to choose the model is not asked at all.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeagent.agent.arguments import Narrowed, narrow
from edgeagent.agent.grammar import spell, to_gbnf
from edgeagent.agent.schema import Object, Schema, bounded, violation
from edgeagent.agent.schema_reader import read_schema
from edgeagent.agent.selection import ToolSelector
from edgeagent.agent.words import plain
from edgeagent.core.chat import Message, ToolCall, ToolChoice, ToolSpec
from edgeagent.core.errors import EngineError, RequestError

MAX_ARGUMENT_TOKENS = 256
MAX_TOOLS = 128
_MAX_DESCRIPTION_CHARS = 400  # a prompt of the small model holds one tool, and its context is small

# Shown once, so that the model continues a pattern instead of following an instruction.
_EXAMPLE = (
    Message(
        role="user",
        content=(
            "Tool: book_table. Reserve a table in a restaurant.\n"
            "- restaurant: name of the restaurant\n- guests: number of people\n- day: day of the visit\n"
            "Request: Could you get us a table for 4 at Luigi's on Sunday?"
        ),
    ),
    Message(role="assistant", content='{"restaurant": "Luigi\'s", "guests": 4, "day": "Sunday"}'),
)
_SYSTEM = Message(role="system", content="You copy values from a request into the arguments of a tool, as JSON.")


class Completer(Protocol):
    async def complete(self, messages: Sequence[Message], *, max_tokens: int, grammar: str | None = None) -> str:
        """The model's greedy answer to `messages`, restricted to `grammar` (GBNF, root rule `root`)."""
        ...


@dataclass(frozen=True, slots=True)
class _Option:
    tool: ToolSpec
    schema: Schema
    narrowed: Narrowed


class ToolCaller:
    """Turns a conversation into a call, or into the decision to answer in text."""

    def __init__(self, completer: Completer, selector: ToolSelector, new_id: Callable[[], str]) -> None:
        self._completer = completer
        self._selector = selector
        self._new_id = new_id

    async def decide(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        choice: ToolChoice,
        failed: Sequence[ToolCall] = (),
    ) -> ToolCall | None:
        """A call whose arguments fit the tool's schema, and that is none of `failed`; None: answer in text.

        `required` and `named` always give a call when nothing failed. A conversation that ends with a tool's result
        is answered in text unless a call is demanded or the last one failed.
        Raises RequestError for an unknown tool or an unsupported schema, EngineError.
        """
        request = _last_request(messages)
        is_free = choice.mode == "auto"
        if request is None or (is_free and messages[-1].role != "user" and not failed):
            return None
        options = [_option(tool, request, failed) for tool in _eligible(tools, choice)]
        call = await self._best(request, options, is_free=is_free or bool(failed))
        return None if call and any(_is_same(call, each) for each in failed) else call

    async def _best(self, request: str, options: Sequence[_Option], *, is_free: bool) -> ToolCall | None:
        able = [option for option in options if not option.narrowed.missing]
        if not options or (is_free and not able):
            return None
        by_name = {option.tool.name: option for option in able or options}
        ranked = await self._selector.rank(request, [(each.tool, each.narrowed.evidence) for each in by_name.values()])
        if is_free and not ranked[0].is_wanted:
            return None
        option = by_name[ranked[0].tool.name]
        return ToolCall(id=self._new_id(), name=option.tool.name, arguments=await self._arguments(request, option))

    async def _arguments(self, request: str, option: _Option) -> str:
        if (only := option.narrowed.only_document) is not None:
            return spell(only)
        prompt = (_SYSTEM, *_EXAMPLE, Message(role="user", content=_asked(option, request)))
        grammar = to_gbnf(bounded(option.narrowed.schema))
        text = await self._completer.complete(prompt, max_tokens=MAX_ARGUMENT_TOKENS, grammar=grammar)
        if problem := _problem(option.schema, text):
            raise EngineError(f"the model's arguments for {option.tool.name} are unusable: {problem}; name every value")
        return text


def _last_request(messages: Sequence[Message]) -> str | None:
    return next((plain(each.content) for each in reversed(messages) if each.role == "user"), None)


def _eligible(tools: Sequence[ToolSpec], choice: ToolChoice) -> Sequence[ToolSpec]:
    if len(tools) > MAX_TOOLS:
        raise RequestError(f"{len(tools)} tools are more than {MAX_TOOLS}; offer fewer")
    if choice.mode == "none":
        return ()
    if choice.mode == "required" and not tools:
        raise RequestError("tool_choice is 'required' but no tool is offered; add tools or use 'auto'")
    if choice.mode != "named":
        return tools
    named = [tool for tool in tools if tool.name == choice.name]
    if not named:
        raise RequestError(f"tool_choice names '{choice.name}', which is not among the tools; name one of them")
    return named


def _option(tool: ToolSpec, request: str, failed: Sequence[ToolCall]) -> _Option:
    schema = read_schema(tool.parameters)
    tried = [json.loads(call.arguments) for call in failed if call.name == tool.name]
    return _Option(tool, schema, narrow(tool, schema, request).without(tried))


def _is_same(one: ToolCall, other: ToolCall) -> bool:
    return one.name == other.name and one.arguments == other.arguments


def _asked(option: _Option, request: str) -> str:
    lines = [f"Tool: {option.tool.name}. {option.tool.description[:_MAX_DESCRIPTION_CHARS]}"]
    if isinstance(option.schema, Object):
        lines += [f"- {each.name}: {each.description[:_MAX_DESCRIPTION_CHARS]}" for each in option.schema.properties]
    return "\n".join([*lines, f"Request: {request}"])


def _problem(schema: Schema, text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "they end too early"
    return violation(schema, value, "arguments")

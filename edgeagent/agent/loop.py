"""The agent's loop: decide on a tool, run it, feed the result back, answer. Every step is an event."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from edgeagent.agent.results import quoting_grammar, with_results_told
from edgeagent.agent.toolcall import ToolCaller
from edgeagent.agent.tools import ToolRegistry
from edgeagent.core.chat import ChatRequest, Message, ToolCall, ToolChoice, ToolSpec
from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.events import Event, Text, ToolCalled, ToolReturned

MAX_FAILURES = 2  # the model gets one chance to correct a call


class Answer(Protocol):
    """Writes the answer to a conversation; `grammar` (GBNF) restricts it when given."""

    def __call__(self, messages: Sequence[Message], grammar: str | None) -> AsyncGenerator[Event, None]: ...


class Agent:
    """One conversation turn with tools. `quotes_results`: a model too small to retell a tool's result repeats it."""

    def __init__(
        self, caller: ToolCaller, registry: ToolRegistry, *, max_steps: int = 4, quotes_results: bool = True
    ) -> None:
        self._caller = caller
        self._registry = registry
        self._max_steps = max_steps
        self._quotes_results = quotes_results

    async def run(self, request: ChatRequest, user: str, answer: Answer) -> AsyncGenerator[Event, None]:
        """Events up to and including those of `answer`.

        A call of a tool that came with the request is the client's to make: then `ToolCalled` is the last event.
        When the last call failed, the last event is a `Text` that says why. `Finished` comes from `answer` or is
        left to the caller. Raises RequestError for tools that cannot be offered, EngineError.
        """
        messages, choice = list(request.messages), request.tool_choice
        tools = self._offered(request.tools)
        failed: list[ToolCall] = []
        last: ToolReturned | None = None
        for index in range(self._max_steps):
            call = await self._caller.decide(messages, tools, choice, failed)
            if call is None:
                break
            yield ToolCalled(call, index)
            if any(call.name == tool.name for tool in request.tools):
                return
            yield (last := await self._execute(call, user))
            messages += _exchange(last)
            failed += [call] if last.is_error else []
            if len(failed) >= MAX_FAILURES:
                break
            choice = ToolChoice()
        if last and last.is_error:
            yield Text(f"I could not do that. {last.result}")
            return
        grammar = quoting_grammar(last.result) if last and self._quotes_results else None
        async for event in answer(with_results_told(messages), grammar):
            yield event

    def _offered(self, from_client: Sequence[ToolSpec]) -> list[ToolSpec]:
        """The client's tools, and ours whose names it left free."""
        taken = {tool.name for tool in from_client}
        return [*from_client, *(spec for spec in self._registry.specs if spec.name not in taken)]

    async def _execute(self, call: ToolCall, user: str) -> ToolReturned:
        try:
            return ToolReturned(call, await self._registry.call(call, user))
        except EdgeAgentError as error:
            return ToolReturned(call, str(error), is_error=True)


def _exchange(returned: ToolReturned) -> list[Message]:
    call = returned.call
    return [
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content=returned.result, name=call.name, tool_call_id=call.id),
    ]

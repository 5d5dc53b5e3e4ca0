"""Whole turns with the real models: events in order, results that reach the answer, failures that end clearly."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

import pytest

from edgeagent.agent.builtin import CalculatorTool, ClockTool
from edgeagent.agent.loop import Agent
from edgeagent.agent.results import with_results_told
from edgeagent.agent.selection import ToolSelector
from edgeagent.agent.toolcall import ToolCaller
from edgeagent.agent.tools import ToolRegistry
from edgeagent.core.chat import ChatRequest, JsonObject, Message, ToolCall, ToolChoice, ToolSpec
from edgeagent.core.events import Event, Text, ToolCalled, ToolReturned

if TYPE_CHECKING:
    from tests.agent.conftest import ChatModel, OnnxSentences

LIGHT = ToolSpec(
    name="set_light",
    description="Turn a light on or off in a room",
    parameters={
        "type": "object",
        "properties": {
            "room": {"type": "string", "description": "Room of the house"},
            "state": {"type": "string", "enum": ["on", "off"]},
        },
        "required": ["room", "state"],
    },
)


@pytest.fixture
def agent(chat_model: "ChatModel", embedder: "OnnxSentences") -> Agent:
    caller = ToolCaller(chat_model, ToolSelector(embedder), lambda: "call_1")
    return Agent(caller, ToolRegistry([ClockTool(lambda: 0.0), CalculatorTool()]))


def run(agent: Agent, chat_model: "ChatModel", request: ChatRequest) -> list[Event]:
    async def answer(messages: Sequence[Message], grammar: str | None) -> AsyncGenerator[Event, None]:
        yield Text(await chat_model.complete(messages, max_tokens=40, grammar=grammar))

    async def collect() -> list[Event]:
        return [event async for event in agent.run(request, "ann", answer)]

    return asyncio.run(collect())


def asking(text: str, **more: object) -> ChatRequest:
    fields: JsonObject = {"messages": (Message(role="user", content=text),), **more}
    return ChatRequest(**fields)


def test_run_of_a_calculation_calls_returns_and_answers_with_the_result(agent: Agent, chat_model: "ChatModel") -> None:
    events = run(agent, chat_model, asking("What is 17 * 23?"))

    call = ToolCall(id="call_1", name="calculator", arguments='{"expression": "17 * 23"}')
    assert events == [ToolCalled(call, 0), ToolReturned(call, "17 * 23 = 391"), Text("17 * 23 = 391")]


def test_run_of_small_talk_only_answers(agent: Agent, chat_model: "ChatModel") -> None:
    (event,) = run(agent, chat_model, asking("Tell me a joke"))

    assert isinstance(event, Text)
    assert event.text


def test_run_with_a_client_tool_ends_with_the_call_for_the_client(agent: Agent, chat_model: "ChatModel") -> None:
    (event,) = run(agent, chat_model, asking("Turn on the light in the kitchen", tools=(LIGHT,)))

    assert isinstance(event, ToolCalled)
    assert event.call.name == "set_light"
    assert json.loads(event.call.arguments) == {"room": "kitchen", "state": "on"}


def test_run_with_a_failing_tool_ends_with_its_reason(agent: Agent, chat_model: "ChatModel") -> None:
    events = run(agent, chat_model, asking("What is 5 / 0?"))

    assert [type(event) for event in events] == [ToolCalled, ToolReturned, Text]
    assert isinstance(events[1], ToolReturned)
    assert events[1].is_error
    assert isinstance(events[2], Text)
    assert "divides by zero" in events[2].text


def test_run_after_a_failure_tries_another_value_then_stops(agent: Agent, chat_model: "ChatModel") -> None:
    events = run(agent, chat_model, asking("What is 5 / 0 or 7 % 0 or 8 // 0?"))

    called = [event.call.arguments for event in events if isinstance(event, ToolCalled)]
    assert len(set(called)) == 2
    assert [type(event) for event in events] == [ToolCalled, ToolReturned, ToolCalled, ToolReturned, Text]


def test_run_with_tool_choice_required_calls_once_and_answers(agent: Agent, chat_model: "ChatModel") -> None:
    events = run(agent, chat_model, asking("Hello!", tool_choice=ToolChoice(mode="named", name="clock")))

    assert [type(event) for event in events] == [ToolCalled, ToolReturned, Text]
    assert events[-1] == Text("It is 00:00 on Thursday, 1 January 1970 (UTC, UTC+0000).")


def test_run_with_tool_choice_none_only_answers(agent: Agent, chat_model: "ChatModel") -> None:
    request = asking("What is 2 + 2?", tool_choice=ToolChoice(mode="none"))

    (event,) = run(agent, chat_model, request)

    assert isinstance(event, Text)


def test_tool_results_are_told_to_the_model_inside_the_question() -> None:
    call = ToolCall(id="1", name="get_weather", arguments="{}")
    told = with_results_told(
        (
            Message(role="system", content="Be brief."),
            Message(role="user", content="Weather in Rome?"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content="rain, 14 degrees", name="get_weather", tool_call_id="1"),
        )
    )

    assert [message.role for message in told] == ["system", "user"]
    assert told[1].content.startswith("Weather in Rome?\n\nResult of the get_weather tool: rain, 14 degrees")

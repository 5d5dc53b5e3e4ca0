"""Chat completions as other people's clients see them: the official `openai` client, and bare sockets."""

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from edgeagent.core.chat import ToolCall
from edgeagent.core.events import Finished, Text, ToolCalled, ToolReturned, Usage
from edgeagent.core.plan import AnswerReport, PlanKind

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam

    from tests.application.conftest import Running, Scripted

MODEL = "smollm2-135m-instruct"
QUESTION: "list[ChatCompletionMessageParam]" = [{"role": "user", "content": "How often?"}]
WEATHER: "ChatCompletionToolParam" = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALL = ToolCall(id="call_7", name="weather", arguments='{"city": "Lyon"}')
REPORT = AnswerReport(plan=PlanKind.LOCAL, model=MODEL, variant="Q4_1", why="local: no peer is known")
FINISHED = Finished("stop", Usage(12, 3), REPORT)


def client(base_url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0, timeout=20)


async def collected(base_url: str, **options: Any) -> "list[ChatCompletionChunk]":
    async with client(base_url) as openai:
        chunks = await openai.chat.completions.create(messages=QUESTION, model=MODEL, stream=True, **options)
        return [chunk async for chunk in chunks]


async def completed(base_url: str, **options: Any) -> Any:
    async with client(base_url) as openai:
        return await openai.chat.completions.create(**({"messages": QUESTION, "model": MODEL} | options))


def text_of(chunks: "list[ChatCompletionChunk]") -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_completion_carries_text_usage_and_report(base_url: str) -> None:
    answer = asyncio.run(completed(base_url))
    choice = answer.choices[0]
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert "every three months" in choice.message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    report = answer.model_extra["edgeagent"]
    assert set(report) >= {"plan", "model", "variant", "peer", "why", "k", "seed", "reduction", "memory", "handover"}
    assert set(report["predicted"]) == set(report["measured"])
    assert all(set(h) == {"at_token", "from", "to", "reason"} for h in report["handover"])


def test_stream_begins_with_the_role_and_ends_with_the_report(base_url: str) -> None:
    chunks = asyncio.run(collected(base_url))
    whole = asyncio.run(completed(base_url))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[-2:]] == [None, "stop"]
    assert chunks[-1].model_extra == {"edgeagent": whole.model_extra["edgeagent"]}
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert text_of(chunks) == whole.choices[0].message.content


def test_stream_with_usage_ends_with_a_chunk_without_choices(base_url: str) -> None:
    chunks = asyncio.run(collected(base_url, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].model_extra is not None
    assert "edgeagent" in chunks[-1].model_extra
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_tool_call_reaches_the_client_and_its_result_comes_back(base_url: str, backend: "Scripted") -> None:
    backend.script = (ToolCalled(CALL, 0), Finished("tool_calls", Usage(20, 5), REPORT))
    answer = asyncio.run(completed(base_url, tools=[WEATHER], tool_choice="required"))
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert (message.tool_calls[0].function.name, json.loads(message.tool_calls[0].function.arguments)) == (
        "weather",
        {"city": "Lyon"},
    )
    backend.script = (Text("Sunny."), FINISHED)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    follow_up = [*QUESTION, message.model_dump(), result]
    asyncio.run(completed(base_url, messages=follow_up, tools=[WEATHER]))
    asked = backend.asked[-1][0].messages
    assert asked[1].tool_calls == (CALL,)
    assert (asked[2].role, asked[2].tool_call_id, asked[2].content) == ("tool", "call_7", "sun")


def test_tool_calls_stream_as_indexed_deltas(base_url: str, backend: "Scripted") -> None:
    other = ToolCall(id="call_8", name="weather", arguments='{"city": "Oslo"}')
    backend.script = (ToolCalled(CALL, 0), ToolCalled(other, 1), Finished("tool_calls", Usage(20, 5), REPORT))
    chunks = asyncio.run(collected(base_url, tools=[WEATHER]))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(d.index, d.id, d.type) for d in deltas] == [(0, "call_7", "function"), (1, "call_8", "function")]
    assert [json.loads(d.function.arguments or "")["city"] for d in deltas if d.function] == ["Lyon", "Oslo"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    one = asyncio.run(collected(base_url, tools=[WEATHER], parallel_tool_calls=False))
    assert len([call for chunk in one for call in chunk.choices[0].delta.tool_calls or []]) == 1


def test_tools_of_the_house_stay_in_the_house(base_url: str, backend: "Scripted") -> None:
    clock = ToolCall(id="c", name="clock", arguments="{}")
    backend.script = (ToolCalled(clock, 0), ToolReturned(clock, "noon"), Text("It is noon."), FINISHED)
    chunks = asyncio.run(collected(base_url, tools=[WEATHER]))
    assert not any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    assert text_of(chunks) == "It is noon."


def test_events_are_told_only_to_who_asks(base_url: str) -> None:
    assert not any("edgeagent_event" in (c.model_extra or {}) for c in asyncio.run(collected(base_url)))
    told = asyncio.run(collected(base_url, extra_body={"edgeagent": {"events": True}}))
    events = [c.model_extra["edgeagent_event"] for c in told if c.model_extra and "edgeagent_event" in c.model_extra]
    assert [event["type"] for event in events] == [
        "recalled_memories", "reduced", "planned", "tool_called", "tool_returned", "handed_over",
    ]  # fmt: skip
    assert events[-1]["handover"]["from"] == "garage"


def test_request_reaches_the_assistant_whole(base_url: str, backend: "Scripted") -> None:
    messages = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    ]
    extension = {"plan": "prefill", "reduce": "L2", "memory": False, "policy": "energy", "deadline_s": 4}
    extension |= {"priority": "background", "cascade": False, "layout": "as_given"}
    asyncio.run(
        completed(
            base_url, messages=messages, seed=-1, stop=["x", "y"], temperature=0.8, top_p=0, max_tokens=5,
            max_completion_tokens=7, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}},
            user="label", extra_body={"edgeagent": extension | {"documents": [{"source": "a.txt", "text": "long"}]},
                                      "some_future_field": 1},
        )
    )  # fmt: skip
    request, user = backend.asked[0]
    assert user == "owner"
    assert [(m.role, m.content) for m in request.messages] == [("system", "be short"), ("user", "one\ntwo")]
    assert (request.sampling.seed, request.sampling.temperature, request.stop) == (2**32 - 1, 0.8, ("x", "y"))
    assert 0 < request.sampling.top_p < 1e-3
    assert request.max_tokens == 7
    assert (request.tool_choice.mode, request.tool_choice.name) == ("named", "weather")
    assert request.edgeagent.model_dump(mode="json", exclude={"user", "agent"}) == extension
    assert request.documents[0].source == "a.txt"


def test_seed_is_drawn_only_where_chance_plays(base_url: str, backend: "Scripted") -> None:
    for temperature in (0, 0.8, 0.8):
        asyncio.run(completed(base_url, temperature=temperature))
    greedy, first, second = (request.sampling.seed for request, _ in backend.asked)
    assert greedy == 0
    assert first != second


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages.0.tool_call_id"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": "3"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "none"}}}, "tool_choice"),
        ({"n": 2}, "n"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"edgeagent": {"plan": "teleport"}}, "edgeagent.plan"),
        ({"edgeagent": {"plam": "local"}}, "edgeagent.plam"),
    ],
)
def test_parameter_that_cannot_be_honoured_is_named(
    base_url: str, backend: "Scripted", change: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        asyncio.run(completed(base_url, extra_body=change))
    assert caught.value.param == param
    assert backend.asked == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"hello"', b"\xff\xfe", b'{"messages":' + b"[" * 5000, b'{"messages": "\\ud800"}']
)
def test_body_that_is_no_request_is_refused(server: "Running", body: bytes) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(head.encode() + body)
        answer = raw.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_harmless_values_of_unsupported_parameters_pass(base_url: str) -> None:
    answer = asyncio.run(
        completed(base_url, n=1, logprobs=False, presence_penalty=0, response_format={"type": "text"}, store=False)
    )
    assert answer.choices[0].finish_reason == "stop"


def test_model_unknown_is_not_found(base_url: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        asyncio.run(completed(base_url, model="gpt-17"))
    assert caught.value.code == "model_not_found"

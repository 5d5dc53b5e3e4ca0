"""How tokens are drawn and told, as the official `openai` client asks for it and reads it."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from edgeagent.core.events import Finished, Text, Usage
from edgeagent.core.generation import Alternative, TokenStep
from edgeagent.core.plan import AnswerReport, PlanKind

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    from tests.application.conftest import Scripted

MODEL = "smollm2-135m-instruct"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "How often?"}]}
FINISHED = Finished("stop", Usage(12, 3), AnswerReport(plan=PlanKind.LOCAL, model=MODEL, variant="Q4_1", why="here"))
TOP = (Alternative(7, b"Ev", -0.25), Alternative(9, b"\xc3", -1.5))
STEPS = (TokenStep(0, 7, b"Ev", logprob=-0.25, top=TOP), TokenStep(1, 8, b"ery", logprob=-0.5, top=TOP))


async def asked(base_url: str, **options: Any) -> "ChatCompletion":
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0, timeout=20) as openai:
        answer: ChatCompletion = await openai.chat.completions.create(**(ASK | options))
        return answer


async def streamed(base_url: str, **options: Any) -> "list[ChatCompletionChunk]":
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0, timeout=20) as openai:
        return [chunk async for chunk in await openai.chat.completions.create(**(ASK | options), stream=True)]


def test_sampling_reaches_the_assistant_whole(base_url: str, backend: "Scripted") -> None:
    options: dict[str, Any] = {
        "presence_penalty": 1.5, "frequency_penalty": -0.5, "logit_bias": {"17": -100, "5": 2.5},
        "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 9, "stop": "END",
        "extra_body": {"top_k": 7, "min_p": 0.2, "repetition_penalty": 1.1, "penalty_window": 99},
    }  # fmt: skip
    asyncio.run(asked(base_url, **options))
    request, _ = backend.asked[0]
    sampling = request.sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1.5, -0.5)
    assert (sampling.repetition_penalty, sampling.penalty_window) == (1.1, 99)
    assert (sampling.top_k, sampling.min_p, sampling.logprobs) == (7, 0.2, 3)
    assert sampling.logit_bias == ((17, -100.0), (5, 2.5))
    assert (request.max_tokens, request.stop) == (9, ("END",))
    assert sampling.grammar is None


def test_logprobs_have_the_shape_the_client_knows(base_url: str, backend: "Scripted") -> None:
    backend.script = (Text("Every", STEPS), Text(" day."), FINISHED)
    told = asyncio.run(asked(base_url, logprobs=True, top_logprobs=2)).choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [(each.token, each.logprob, each.bytes) for each in told.content] == [
        ("Ev", -0.25, [69, 118]), ("ery", -0.5, [101, 114, 121]),
    ]  # fmt: skip
    assert [(top.token, top.logprob, top.bytes) for top in told.content[0].top_logprobs] == [
        ("Ev", -0.25, [69, 118]), ("�", -1.5, [195]),
    ]  # fmt: skip
    chunks = asyncio.run(streamed(base_url, logprobs=True, top_logprobs=2))
    deltas = [chunk.choices[0].logprobs for chunk in chunks]
    assert [each.content for each in deltas if each is not None] == [told.content]


def test_answer_without_logprobs_has_none(base_url: str) -> None:
    assert asyncio.run(asked(base_url)).choices[0].logprobs is None
    assert all(chunk.choices[0].logprobs is None for chunk in asyncio.run(streamed(base_url)))


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": {"type": "object"}}},
    ],
)
def test_response_format_becomes_a_grammar(base_url: str, backend: "Scripted", form: dict[str, Any]) -> None:
    asyncio.run(asked(base_url, response_format=form))
    grammar = backend.asked[0][0].sampling.grammar
    assert grammar is not None
    assert grammar.startswith('root ::= "{"')


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"logprobs": "yes"}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"the": 1}}, "logit_bias.the"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_value_that_cannot_be_honoured_is_named(
    base_url: str, backend: "Scripted", change: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        asyncio.run(asked(base_url, extra_body=change))
    assert (caught.value.param or "").startswith(param)
    assert backend.asked == []

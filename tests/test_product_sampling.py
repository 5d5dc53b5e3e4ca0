"""Sampling as the official `openai` client uses it, against a real daemon and a peer."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from edgeagent.model.store import ModelStore
from tests.conftest import Cli, Mosquitto, free_port
from tests.test_product import Program, environment, running

QUESTION: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"enum": ["France", "Spain"]},
        "postcode": {"type": "string", "pattern": "^[0-9]{5}$"},
        "inhabitants": {"type": "integer", "exclusiveMinimum": 0},
    },
    "required": ["city", "country", "postcode", "inhabitants"],
    "additionalProperties": False,
}
FORM: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
PLAIN: Any = {"edgeagent": {"memory": False, "reduce": "L0"}}


@pytest.fixture
def client(ready_env: dict[str, str], tmp_path: Path) -> Iterator[openai.OpenAI]:
    port = free_port()
    env = environment(ready_env, tmp_path, EDGEAGENT__HTTP__PORT=str(port))
    daemon = Program(("serve",), env, tmp_path / "daemon.log", "daemon ready")
    with running(daemon), client_of(port) as opened:
        yield opened


def client_of(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def asked(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        **({"model": "smollm2-135m-instruct", "messages": QUESTION, "max_tokens": 24, "extra_body": PLAIN} | options)
    )


def notes(answer: Any) -> str:
    return " ".join(answer.model_extra["edgeagent"]["notes"])


def test_openai_client_draws_as_it_asks(client: openai.OpenAI) -> None:
    plain = asked(client)
    text = plain.choices[0].message.content
    word = text.split()[2]
    stopped = asked(client, stop=[word, "never said"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == text[: text.index(word)]

    told = asked(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(each.token for each in told) == text
    assert all(len(each.top_logprobs) == 2 and each.logprob <= each.top_logprobs[0].logprob <= 0 for each in told)
    chunks = list(asked(client, logprobs=True, top_logprobs=2, stream=True))
    streamed = [each for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content]
    assert [(each.token, each.logprob) for each in streamed] == [(each.token, each.logprob) for each in told]

    assert asked(client, frequency_penalty=2, presence_penalty=2, max_tokens=60).choices[0].message.content != text
    assert asked(client, logit_bias={"49000": 100}, max_tokens=4).usage.completion_tokens == 4
    assert asked(client, max_completion_tokens=3).usage.completion_tokens == 3
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        asked(client, logit_bias={"999999": 1})
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        asked(client, logit_bias={"999999": 1}, stream=True)


def test_openai_client_gets_the_form_it_asks_for(client: openai.OpenAI) -> None:
    answer = asked(client, response_format=FORM, max_tokens=80)
    city = json.loads(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"
    assert set(city) == set(CITY["required"])
    assert city["country"] in ("France", "Spain")
    assert len(city["postcode"]) == 5
    assert notes(answer) == ""

    for limit in (1, 5, 13):
        cut = asked(client, response_format=FORM, max_tokens=limit)
        assert set(json.loads(cut.choices[0].message.content)) == set(CITY["required"])
        assert cut.choices[0].finish_reason == "length"
        assert "close" in notes(cut)
    assert isinstance(
        json.loads(asked(client, response_format={"type": "json_object"}).choices[0].message.content), dict
    )
    unique: Any = {"name": "a", "schema": {"type": "array", "uniqueItems": True}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        asked(client, response_format={"type": "json_schema", "json_schema": unique})


def test_peer_draws_as_the_device_would(ready_env: dict[str, str], tmp_path: Path, mosquitto: Mosquitto) -> None:
    port = free_port()
    shared = {"EDGEAGENT__MQTT__URL": mosquitto.url, "EDGEAGENT__MQTT__PREFIX": f"test/{port}"}
    peer_env = environment(ready_env, tmp_path, EDGEAGENT__MQTT__DEVICE_ID="garage", **shared)
    env = environment(
        ready_env, tmp_path, EDGEAGENT__MQTT__DEVICE_ID="shelf", EDGEAGENT__HTTP__PORT=str(port), **shared
    )
    options: Any = {
        "temperature": 0.9, "seed": 4, "frequency_penalty": 0.7, "logit_bias": {"28": -5}, "logprobs": True,
        "top_logprobs": 2,
    }  # fmt: skip
    penalty = {"repetition_penalty": 1.1}
    peer = Program(("peer",), peer_env, tmp_path / "peer.log", "peer ready")
    daemon = Program(("serve",), env, tmp_path / "daemon.log", "daemon ready")
    with running(peer), running(daemon), client_of(port) as client:
        here, there = (
            asked(client, **options, extra_body={"edgeagent": PLAIN["edgeagent"] | {"plan": plan}} | penalty)
            for plan in ("local", "remote")
        )
    assert there.model_extra["edgeagent"]["plan"] == "remote"
    assert there.model_extra["edgeagent"]["peer_tokens"] > 0
    assert there.choices[0].message.content == here.choices[0].message.content
    assert there.choices[0].logprobs == here.choices[0].logprobs


def test_model_without_a_template_says_so_in_its_answer(
    edgeagent: Cli, ready_env: dict[str, str], embedded_store: ModelStore
) -> None:
    asyncio.run(embedded_store.ensure("gemma-3-270m"))
    done = edgeagent(
        "ask", "Hello?", "--model", "gemma-3-270m", "--plan", "local", "--max-tokens", "2", "--no-memory", "--json",
        env=ready_env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [note for note in json.loads(done.stdout)["edgeagent"]["notes"] if "template" in note]
    assert len(told) == 1
    assert "no chat template" in told[0]
    assert "plain" in told[0]

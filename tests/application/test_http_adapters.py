"""How a client names a LoRA adapter: in our own object, or behind the model's name."""

import json

import pytest

from edgeagent.application.http.errors import ParameterError
from edgeagent.application.http.openai import read_chat
from edgeagent.core.chat import ChatRequest


def read(**body: object) -> ChatRequest:
    messages = [{"role": "user", "content": "hello"}]
    return read_chat(json.dumps({"messages": messages, **body}).encode(), draw_seed=lambda: 0).request


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m:brief"},
        {"model": "m", "edgeagent": {"adapter": "brief"}},
        {"model": "m:brief", "edgeagent": {"adapter": "brief"}},
    ],
)
def test_adapter_is_named_behind_the_model_or_in_the_extension(body: dict[str, object]) -> None:
    request = read(**body)
    assert (request.model, request.edgeagent.adapter) == ("m", "brief")


def test_request_without_an_adapter_has_none() -> None:
    assert read(model="m").edgeagent.adapter is None


@pytest.mark.parametrize(
    "body", [{"model": "m:"}, {"model": "m:../x"}, {"model": "m:brief", "edgeagent": {"adapter": "rude"}}]
)
def test_bad_or_contradictory_name_is_an_error_about_the_model(body: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match="'model'"):
        read(**body)

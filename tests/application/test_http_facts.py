"""The addresses besides chat: models, health, profile, plan, memory, and the page's own files."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from openai import AsyncOpenAI

from edgeagent.core.hardware import Profile
from edgeagent.core.plan import Decision, PlanQuery

if TYPE_CHECKING:
    from email.message import Message

    from tests.application.conftest import Running, Scripted

MODEL = "smollm2-135m-instruct"


def fetch(url: str, body: bytes | None = None, **headers: str) -> "tuple[int, bytes, Message]":
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_models_are_listed_for_the_official_client(base_url: str) -> None:
    async def listed() -> tuple[list[str], str]:
        async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused") as openai:
            return [m.id async for m in openai.models.list()], (await openai.models.retrieve(MODEL)).object

    assert asyncio.run(listed()) == ([MODEL, "served-model"], "model")
    assert fetch(f"{base_url}/v1/models/none")[0] == 404


def test_ready_follows_the_backend(base_url: str, backend: "Scripted") -> None:
    status, body, _ = fetch(f"{base_url}/ready")
    assert (status, json.loads(body)) == (200, {"ready": True, "why": backend.ready[1], "running": 1, "waiting": 3})
    backend.ready = (False, "the model is being fetched")
    status, body, _ = fetch(f"{base_url}/ready")
    assert status == 503
    assert b"being fetched" in body
    assert fetch(f"{base_url}/health")[0] == 200


def test_profile_and_plan_are_the_documents_of_the_core(base_url: str, backend: "Scripted") -> None:
    assert Profile.model_validate_json(fetch(f"{base_url}/api/edge/profile")[1]).cpu.cores == 4
    query = PlanQuery(prompt_tokens=1000, max_tokens=64, link_mbit_s=50, rtt_ms=12)
    status, body, _ = fetch(f"{base_url}/api/edge/plan", query.model_dump_json().encode())
    assert status == 200
    assert Decision.model_validate_json(body).chosen.plan == "prefill"
    assert backend.planned == [query]


@pytest.mark.parametrize("body", [b"{}", b'{"prompt_tokens": 0, "max_tokens": 1}', b"nothing"])
def test_plan_of_a_bad_query_is_refused(base_url: str, body: bytes) -> None:
    assert fetch(f"{base_url}/api/edge/plan", body)[0] == 400


def test_memories_are_those_of_the_user(base_url: str) -> None:
    status, body, _ = fetch(f"{base_url}/api/edge/memory?query=pump&limit=1&user=guest")
    assert status == 200
    assert b'"user": "guest"' in body
    assert body.count(b'"text": "pump"') == 1
    assert fetch(f"{base_url}/api/edge/memory?limit=0")[0] == 400
    assert fetch(f"{base_url}/api/edge/memory?limit=many")[0] == 400


def test_page_forbids_what_it_does_not_need(guarded: "Running") -> None:
    status, body, headers = fetch(f"{guarded.base_url}/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"://" not in body
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_page_files_are_cached_by_content(base_url: str) -> None:
    _, script, headers = fetch(f"{base_url}/ui/app.js")
    assert b"innerHTML" not in script
    assert fetch(f"{base_url}/ui/app.js", None, **{"If-None-Match": headers["ETag"]})[:2] == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "..%2fhttp%2fpage.py", "%2e%2e/backend.py", "__init__.py"])
def test_page_serves_nothing_else(base_url: str, name: str) -> None:
    assert fetch(f"{base_url}/ui/{name}")[0] == 404


def test_peers_are_listed_with_what_is_known_of_them(base_url: str) -> None:
    garage, attic = json.loads(fetch(f"{base_url}/api/edge/peers")[1])["peers"]
    assert (garage["id"], garage["wait_s"], garage["capacity"], garage["rtt_s"]) == ("garage", 3.25, 20, 0.004)
    assert (attic["is_broken"], attic["wait_s"]) == (True, None)


def test_metrics_tell_an_autoscaler_what_there_is_to_do(base_url: str) -> None:
    with urllib.request.urlopen(f"{base_url}/metrics") as reply:
        kind, lines = reply.headers["Content-Type"], reply.read().decode().splitlines()
    assert kind.startswith("text/plain; version=0.0.4")
    assert 'edgeagent_peer_wait_seconds{peer="garage"} 3.25' in lines
    assert [line for line in lines if line.startswith("edgeagent_peer_up")] == [
        'edgeagent_peer_up{peer="garage"} 1', 'edgeagent_peer_up{peer="attic"} 0',
    ]  # fmt: skip
    assert "edgeagent_turns_waiting 3" in lines
    named = {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    assert named == {line.split(" ")[2] for line in lines if line.startswith("# TYPE")}

"""/api/edge/memory beyond reading: adding, correcting, forgetting, and for whom."""

from typing import TYPE_CHECKING

import pytest

from tests.application.test_http_guards import ADA, ask

if TYPE_CHECKING:
    from tests.application.conftest import Running, Scripted

PATH = "/api/edge/memory"


def test_memory_is_added_corrected_and_forgotten(server: "Running", backend: "Scripted") -> None:
    status, document, _ = ask(server.port, "POST", PATH, {"text": "The pump is loud."})
    assert (status, document) == (201, {"user": "owner", "id": "m-2"})
    assert ask(server.port, "PUT", f"{PATH}/m-2", {"text": "The pump is quiet."})[:2] == (
        200,
        {"user": "owner", "corrected": "m-2", "summaries": []},
    )
    assert backend.remembered == {("owner", "m-2"): "The pump is quiet."}
    status, document, _ = ask(server.port, "GET", f"{PATH}/m-2")
    assert (status, document["memory"]["text"]) == (200, "The pump is quiet.")
    assert ask(server.port, "DELETE", f"{PATH}/m-2")[:2] == (
        200,
        {"user": "owner", "forgotten": "m-2", "summaries": []},
    )
    assert backend.remembered == {}
    assert ask(server.port, "DELETE", f"{PATH}/m-2")[0] == ask(server.port, "GET", f"{PATH}/m-2")[0] == 404


def test_agent_of_a_user_has_memories_of_its_own(server: "Running", backend: "Scripted") -> None:
    assert ask(server.port, "POST", f"{PATH}?agent=cook", {"text": "Salt is on the left."})[0] == 201
    assert backend.remembered == {("owner/cook", "m-2"): "Salt is on the left."}
    assert ask(server.port, "GET", f"{PATH}?agent=cook")[1]["user"] == "owner/cook"
    assert ask(server.port, "DELETE", f"{PATH}/m-2")[0] == 404
    assert ask(server.port, "DELETE", f"{PATH}/m-2?agent=cook")[0] == 200


def test_list_is_of_one_kind_and_a_search_of_all(server: "Running") -> None:
    listed = ask(server.port, "GET", f"{PATH}?kind=summary")[1]["memories"]
    assert {memory["kind"] for memory in listed} == {"summary"}
    assert ask(server.port, "GET", f"{PATH}?kind=summary&query=pump")[0] == 400


def test_sessions_are_summed_up_when_they_are_asked_for(server: "Running", backend: "Scripted") -> None:
    assert ask(server.port, "POST", f"{PATH}/reflect", {})[0] == 503
    backend.remembered = {("owner", "m-2"): "x", ("owner/cook", "m-3"): "y"}
    assert ask(server.port, "POST", f"{PATH}/reflect", {"most": 3})[:2] == (200, {"user": "owner", "ids": ["m-2"]})
    assert ask(server.port, "POST", f"{PATH}/reflect?agent=cook", {})[1]["ids"] == ["m-3"]
    assert ask(server.port, "POST", f"{PATH}/reflect", {"most": 11})[0] == 400


@pytest.mark.parametrize("query", ["agent=a/b", "agent=", "agent=x%0a", "user=ann/cook", "unknown=1"])
def test_malformed_owner_is_refused(server: "Running", backend: "Scripted", query: str) -> None:
    for method, path, body in (
        ("POST", PATH, {"text": "x"}),
        ("PUT", f"{PATH}/m", {"text": "x"}),
        ("DELETE", f"{PATH}/m", None),
    ):
        assert ask(server.port, method, f"{path}?{query}", body)[0] == 400
    assert backend.remembered == {}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"text": 1}', b'{"text": "x", "id": "m"}', b'{"text": "\xff"}'])
def test_malformed_body_is_refused(server: "Running", body: bytes) -> None:
    assert ask(server.port, "POST", PATH, body)[0] == 400
    assert ask(server.port, "PUT", f"{PATH}/m-2", body)[0] == 400


def test_token_of_one_user_reaches_no_memory_of_another(guarded: "Running", backend: "Scripted") -> None:
    for method, path, body in (
        ("POST", PATH, {"text": "x"}),
        ("PUT", f"{PATH}/m", {"text": "x"}),
        ("DELETE", f"{PATH}/m", None),
        ("GET", f"{PATH}/m", None),
    ):
        assert ask(guarded.port, method, path, body)[0] == 401
        assert ask(guarded.port, method, f"{path}?user=bob", body, **ADA)[0] == 403
    assert backend.remembered == {}
    assert ask(guarded.port, "POST", PATH, {"text": "x"}, **ADA)[1]["user"] == "ada"

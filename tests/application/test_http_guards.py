"""Who is let in: hosts, origins, tokens, sizes, and what a refusal looks like."""

import asyncio
import http.client
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest

from edgeagent.application.http import guards
from edgeagent.application.http.guards import MAX_BODY_BYTES, is_loopback
from edgeagent.application.http.server import start_http
from edgeagent.core.config import HttpConfig
from edgeagent.core.errors import (
    BusyError,
    ConfigError,
    ContextLengthError,
    DeadlineError,
    EdgeAgentError,
    EngineLostError,
    TooManyRequestsError,
)

if TYPE_CHECKING:
    from tests.application.conftest import Running, Scripted

CHAT = "/v1/chat/completions"
QUESTION = {"messages": [{"role": "user", "content": "hello"}]}
ADA = {"Authorization": "Bearer token-of-ada-0123456789"}


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON body and headers of one plain request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, raw, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), {k.lower(): v for k, v in response.getheaders()}
    finally:
        connection.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8477", "127.0.0.1.evil.example", "192.168.1.5", "[::1", "localhost.", ""]
)
def test_host_header_of_another_name_is_refused(server: "Running", host: str) -> None:
    status, document, _ = ask(server.port, "GET", "/api/edge/memory", Host=host)
    assert status == 403
    assert document["error"]["code"] == "forbidden"


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8477", "LOCALHOST"])
def test_host_header_of_loopback_is_served(server: "Running", host: str) -> None:
    assert ask(server.port, "GET", "/api/edge/memory", Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1"])
def test_origin_of_another_site_is_refused(server: "Running", backend: "Scripted", origin: str) -> None:
    status, document, headers = ask(server.port, "POST", CHAT, QUESTION, Origin=origin)
    assert status == 403
    assert "another site" in document["error"]["message"]
    assert "access-control-allow-origin" not in headers
    assert backend.asked == []


def test_origin_of_this_page_is_served(server: "Running") -> None:
    assert ask(server.port, "POST", CHAT, QUESTION, Origin=server.base_url)[0] == 200


def test_cross_site_fetch_without_origin_is_refused(server: "Running") -> None:
    assert ask(server.port, "GET", "/api/edge/memory", **{"Sec-Fetch-Site": "cross-site"})[0] == 403


def test_preflight_of_another_site_gets_no_permission(server: "Running") -> None:
    status, _, headers = ask(
        server.port, "OPTIONS", CHAT, Origin="https://evil.example", **{"Access-Control-Request-Method": "POST"}
    )
    assert status == 403
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", "Basic token-of-ada-0123456789", "Bearer \xe9"])
def test_token_missing_or_unknown_is_refused(guarded: "Running", backend: "Scripted", header: str) -> None:
    headers = {"Authorization": header} if header else {}
    status, document, answer = ask(guarded.port, "POST", CHAT, QUESTION, **headers)
    assert (status, document["error"]["code"]) == (401, "invalid_api_key")
    assert answer["www-authenticate"] == "Bearer"
    assert backend.asked == []


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_token_is_not_needed_for_health(guarded: "Running", path: str) -> None:
    assert ask(guarded.port, "GET", path)[0] == 200


def test_token_maps_to_its_user(guarded: "Running", backend: "Scripted") -> None:
    assert ask(guarded.port, "POST", CHAT, QUESTION, **ADA)[0] == 200
    assert backend.asked[0][1] == "ada"


def test_user_may_be_narrowed_and_never_widened(guarded: "Running", backend: "Scripted") -> None:
    def status(user: str) -> int:
        return ask(guarded.port, "POST", CHAT, QUESTION | {"edgeagent": {"user": user}}, **ADA)[0]

    assert status("ada.phone") == 200
    assert [user for _, user in backend.asked] == ["ada.phone"]
    assert [status(user) for user in ("bob", "adam", "owner", "a", "../bob")] == [403, 403, 403, 403, 400]
    assert ask(guarded.port, "GET", "/api/edge/memory?user=bob", **ADA)[0] == 403


def test_user_without_tokens_is_the_owner_or_whom_it_names(server: "Running", backend: "Scripted") -> None:
    ask(server.port, "POST", CHAT, QUESTION)
    ask(server.port, "POST", CHAT, QUESTION | {"edgeagent": {"user": "guest"}})
    assert [user for _, user in backend.asked] == ["owner", "guest"]


def test_body_over_the_limit_is_refused(server: "Running", backend: "Scripted") -> None:
    status, document, _ = ask(server.port, "POST", CHAT, b" " * (MAX_BODY_BYTES + 1))
    assert (status, document["error"]["code"]) == (413, "request_too_large")
    assert backend.asked == []


def test_body_over_the_limit_without_length_is_refused(server: "Running") -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(MAX_BODY_BYTES // 0x10000 + 1):
            client.sendall(chunk)
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_headers_over_the_limit_are_refused(server: "Running") -> None:
    status, document, _ = ask(server.port, "GET", "/health", **{"X-Large": "a" * 20_000})
    assert (status, document["error"]["code"]) == (431, "headers_too_large")


def test_body_that_never_ends_is_given_up(server: "Running", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_TIMEOUT_S", 0.1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_what_is_not_http_gets_one_refusal(server: "Running") -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.0 400 ")
    assert ask(server.port, "GET", "/health")[0] == 200


def test_address_unknown_and_method_wrong_are_told_apart(server: "Running") -> None:
    status, document, _ = ask(server.port, "GET", "/v2/nothing")
    assert (status, document["error"]["type"]) == (404, "invalid_request_error")
    status, document, headers = ask(server.port, "GET", CHAT)
    assert (status, document["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    ("error", "status", "code", "kind", "retry"),
    [
        (ContextLengthError("too long; cut it"), 400, "context_length_exceeded", "invalid_request_error", "false"),
        (BusyError("the queue is full; wait"), 503, "overloaded", "server_error", "true"),
        (TooManyRequestsError("yours wait; wait"), 429, "rate_limit_exceeded", "rate_limit_error", "true"),
        (DeadlineError("too late; allow more"), 504, "deadline_exceeded", "server_error", "false"),
        (EngineLostError("the worker died; ask again"), 503, "engine_lost", "server_error", "true"),
        (EdgeAgentError("broken; report it"), 500, "internal_error", "server_error", "false"),
    ],
)
def test_error_before_an_answer_keeps_its_status(
    server: "Running", backend: "Scripted", error: EdgeAgentError, status: int, code: str, kind: str, retry: str
) -> None:
    backend.script = (error,)
    for body in (QUESTION, QUESTION | {"stream": True}):
        got, document, headers = ask(server.port, "POST", CHAT, body)
        assert got == status
        assert document == {"error": {"message": str(error), "type": kind, "param": None, "code": code}}
        assert headers["x-should-retry"] == retry


@pytest.mark.parametrize(("known_s", "header"), [(None, "1"), (0.2, "1"), (7.2, "8")])
def test_refusal_says_when_a_retry_may_succeed(
    server: "Running", backend: "Scripted", known_s: float | None, header: str
) -> None:
    backend.script = (BusyError("the queue is full; wait", known_s),)
    assert ask(server.port, "POST", CHAT, QUESTION)[2]["retry-after"] == header


def test_error_nobody_expected_tells_no_secrets(
    server: "Running", backend: "Scripted", caplog: pytest.LogCaptureFixture
) -> None:
    backend.script = (ValueError("secret detail"),)
    status, document, _ = ask(server.port, "POST", CHAT, QUESTION)
    assert status == 500
    assert "secret" not in json.dumps(document)
    assert "secret detail" in caplog.text


def test_log_never_holds_a_query_or_a_question(server: "Running", caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ask(server.port, "GET", "/api/edge/memory?query=where+is+the+key")
        ask(server.port, "POST", CHAT, {"messages": [{"role": "user", "content": "my secret question"}]})
        server.close()
    assert "path=/api/edge/memory status=200" in caplog.text
    assert "key" not in caplog.text
    assert "secret" not in caplog.text


def test_log_line_cannot_be_forged_by_a_path(server: "Running", caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ask(server.port, "GET", "/v1/models/a%0Ahttp%20method=FORGED")
        server.close()
    assert "path=/v1/models/a%0Ahttp%20method=FORGED status=404" in caplog.text
    assert not any(line.startswith("http method=FORGED") for line in caplog.text.splitlines())


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (HttpConfig(host="0.0.0.0"), "http.tokens is empty"),
        (HttpConfig(host="box.local"), "http.tokens is empty"),
        (HttpConfig(tokens={"": "ada"}), "empty or padded token"),
        (HttpConfig(tokens={"token": "a b"}), "names user 'a b'"),
        (HttpConfig(host="192.0.2.1", port=0, tokens={"token": "ada"}), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_server_with_unsafe_settings_does_not_start(backend: "Scripted", config: HttpConfig, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        asyncio.run(start_http(config, backend, logging.getLogger("edgeagent.test")))


def test_server_on_a_port_in_use_says_so(server: "Running", backend: "Scripted") -> None:
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{server.port}: address in use; stop the other"):
        asyncio.run(start_http(HttpConfig(port=server.port), backend, logging.getLogger("edgeagent.test")))


def test_loopback_is_told_from_other_addresses() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "::", "10.0.0.1", "box", "localhost.evil.example"))

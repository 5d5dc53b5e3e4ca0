"""How answers end that do not end well: errors, silence, clients that leave or do not read, a server that closes."""

import asyncio
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from openai import APIError, InternalServerError

from edgeagent.application.http import chat, stream
from edgeagent.core.config import HttpConfig
from edgeagent.core.errors import PeerLostError
from edgeagent.core.events import Text
from tests.application.test_http_chat import FINISHED, MODEL, QUESTION, client, collected, completed, text_of

if TYPE_CHECKING:
    from tests.application.conftest import Running, Scripted, Start


def test_answer_without_a_result_is_an_error(base_url: str, backend: "Scripted") -> None:
    backend.script = (Text("half"),)
    with pytest.raises(InternalServerError):
        asyncio.run(completed(base_url))
    with pytest.raises(APIError, match="stopped without a result"):
        asyncio.run(collected(base_url))


def test_error_within_a_stream_reaches_the_client(base_url: str, backend: "Scripted") -> None:
    backend.script = (Text("half"), PeerLostError("the peer fell silent; ask again"))

    async def listen() -> list[str]:
        seen: list[str] = []
        async with client(base_url) as openai:
            chunks = await openai.chat.completions.create(messages=QUESTION, model=MODEL, stream=True)
            try:
                async for chunk in chunks:
                    seen.append(chunk.choices[0].delta.content or "")  # noqa: PERF401  (what came first is kept)
            except APIError as error:
                seen.append(error.message)
        return seen

    assert asyncio.run(listen()) == ["", "half", "the peer fell silent; ask again"]
    assert not backend.cancelled.is_set()


def test_long_silence_is_filled_with_comments(
    server: "Running", backend: "Scripted", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "KEEP_ALIVE_S", 0.05)
    backend.script = (0.3, Text("late"), FINISHED)
    body = json.dumps({"messages": QUESTION, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        told = b"".join(iter(lambda: raw.recv(65536), b""))
    assert told.count(b": waiting\n\n") >= 2
    assert told.endswith(b"data: [DONE]\n\n")
    assert "late" in text_of_lines(told)
    assert "late" in text_of(asyncio.run(collected(server.base_url)))


def text_of_lines(told: bytes) -> str:
    lines = [line[6:] for line in told.decode().splitlines() if line.startswith("data: {")]
    return "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines)


@pytest.mark.parametrize("is_stream", [True, False])
def test_client_that_leaves_cancels_its_answer(server: "Running", backend: "Scripted", is_stream: bool) -> None:
    backend.script = (Text("one"), 60.0, FINISHED)
    body = json.dumps({"messages": QUESTION, "stream": is_stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(head.encode() + body)
        if is_stream:
            assert raw.recv(10)
        assert backend.began.wait(20)
    assert backend.cancelled.wait(20)


def test_client_that_reads_nothing_is_given_up(
    server: "Running", backend: "Scripted", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "WRITE_TIMEOUT_S", 0.1)
    backend.script = (*[Text("x" * 2**20)] * 32, 60.0, FINISHED)  # more than the socket buffers hold
    body = json.dumps({"messages": QUESTION, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as raw:
        raw.sendall(head.encode() + body)
        assert backend.cancelled.wait(20)
    server.close()
    assert "Traceback" not in caplog.text


def test_server_that_closes_lets_an_answer_finish(server: "Running", backend: "Scripted") -> None:
    backend.script = (Text("one "), 0.5, Text("two"), FINISHED)
    heard: list[str] = []
    asking = threading.Thread(target=lambda: heard.append(text_of(asyncio.run(collected(server.base_url)))))
    asking.start()
    assert backend.began.wait(20)
    server.close()
    asking.join(20)
    assert heard == ["one two"]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_server_that_closes_gives_up_an_answer_that_takes_too_long(start: "Start", backend: "Scripted") -> None:
    backend.script = (Text("one"), 60.0, FINISHED)
    running = start(HttpConfig(port=0), 0.1)
    body = json.dumps({"messages": QUESTION, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as raw:
        raw.sendall(head.encode() + body)
        assert backend.began.wait(20)
        running.close()
    assert backend.cancelled.is_set()

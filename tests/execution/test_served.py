"""Another server's answers as they come, and as they should not: a real HTTP server that says what it is told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from edgeagent.core.errors import (
    BusyError,
    ContextLengthError,
    EdgeAgentError,
    EngineError,
    EngineLostError,
    RequestError,
    WireError,
)
from edgeagent.core.generation import Sampling
from edgeagent.execution.served import MAX_LINE_BYTES, Ended, Piece, Server, ServerAddress, open_server
from tests.conftest import free_port

TURNS = [{"role": "user", "content": "Hello?"}]
HELLO = (
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"Hi"}}],"extra":1}\n\n'
)
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"


@contextlib.asynccontextmanager
async def serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/v1/models", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with open_server(ServerAddress(f"http://127.0.0.1:{port}/v1", "sesame")) as server:
            yield server
    finally:
        await runner.cleanup()


async def events(server: Server) -> list[Piece | Ended]:
    return [event async for event in server.answer("m", TURNS, Sampling(temperature=0.5, seed=3), 8)]


def told(*parts: bytes) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    return answer


def test_stream_is_read_piece_by_piece_and_asked_for_as_every_server_knows_it() -> None:
    asked: list[tuple[dict[str, object], str]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json(), request.headers["Authorization"]))
        return await told(HELLO[:30], HELLO[30:], b": a comment\n\n", END, USAGE, DONE)(request)

    async def scene() -> None:
        async with serving(answer) as server:
            assert await events(server) == [Piece("Hi"), Ended(stopped=True, prompt_tokens=9, answer_tokens=1)]

    asyncio.run(scene())
    body, key = asked[0]
    assert (body["model"], body["messages"], body["max_tokens"], body["seed"]) == ("m", TURNS, 8, 3)
    assert key == "Bearer sesame"


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((HELLO,), EngineLostError),  # broken off
        ((b"data: {not json}\n\n",), WireError),
        ((b'data: {"choices":"none"}\n\n',), WireError),
        ((b"data: " + b"x" * (3 * MAX_LINE_BYTES),), WireError),
    ],
)
def test_stream_that_is_none_is_an_error_and_takes_no_memory(
    parts: tuple[bytes, ...], error: type[EdgeAgentError]
) -> None:
    async def scene() -> None:
        async with serving(told(*parts)) as server:
            with pytest.raises(error):
                await events(server)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (429, '{"error":{"message":"slow down"}}', BusyError),
        (400, '{"error":{"message":"too long","code":"context_length_exceeded"}}', ContextLengthError),
        (400, '{"error":{"message":"no such key"}}', RequestError),
        (401, "who are you?", EngineError),
        (500, "[]", EngineError),
        (302, "", EngineError),
    ],
)
def test_refusals_keep_their_meaning(status: int, body: str, error: type[EdgeAgentError]) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers={"Location": "http://127.0.0.1:9/"})

    async def scene() -> None:
        async with serving(answer) as server:
            with pytest.raises(error):
                await events(server)

    asyncio.run(scene())


def test_answer_that_nobody_wants_any_more_ends_at_the_server() -> None:
    async def scene() -> None:
        is_gone = asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            try:
                while True:
                    await response.write(HELLO)
                    await asyncio.sleep(0.01)
            except (ConnectionError, asyncio.CancelledError):
                is_gone.set()
                raise

        async with serving(answer) as server:
            stream = server.answer("m", TURNS, Sampling(), 8)
            assert await anext(stream) == Piece("Hi")
            await stream.aclose()
            async with asyncio.timeout(10):
                await is_gone.wait()

    asyncio.run(scene())


def test_server_that_is_not_there_is_lost() -> None:
    async def scene() -> None:
        async with open_server(ServerAddress(f"http://127.0.0.1:{free_port()}/v1")) as server:
            with pytest.raises(EngineLostError, match="start it"):
                await server.models()

    asyncio.run(scene())


@pytest.mark.parametrize("status", [200, 400])
def test_body_that_comes_in_parts_is_read_whole(status: int) -> None:
    parts = {200: (b'{"data":[{"id":"a"},', b'{"id":"b"}]}'),
             400: (b'{"error":{"message":"no", ', b'"code":"context_length_exceeded"}}')}  # fmt: skip

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for part in parts[status]:
            await response.write(part)
            await asyncio.sleep(0.05)
        return response

    async def scene() -> None:
        async with serving(answer) as server:
            if status == 200:
                assert await server.models() == {"a": None, "b": None}
            else:
                with pytest.raises(ContextLengthError):
                    await events(server)

    asyncio.run(scene())

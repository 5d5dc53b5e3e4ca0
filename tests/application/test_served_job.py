"""A peer in front of another server, which here is a real HTTP server that follows a script."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
from aiohttp import web

from edgeagent.application.peer import PeerService
from edgeagent.application.served_offers import id_of, served_offers
from edgeagent.broker import background
from edgeagent.core.errors import ConfigError, PeerError, PeerRefusedError
from edgeagent.core.generation import NO_ID, Generation, Sampling
from edgeagent.execution.admission import Admission
from edgeagent.execution.executors import PeerModel, RemoteExecutor, Traffic
from edgeagent.execution.peers import Peers
from edgeagent.execution.served import Server, ServerAddress, open_server
from edgeagent.execution.transport.memory import MemoryBroker
from edgeagent.wire.topics import Topics
from tests.conftest import free_port

TOPICS = Topics("test")
WORDS = ("The ", "lamp ", "is ", "lit. " * 100)
TURNS = [{"role": "user", "content": "Well?"}]


async def _models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "House/Lamp_7B", "max_model_len": 2048}]})


async def _chat(gate: asyncio.Event, request: web.Request) -> web.StreamResponse:
    """Says the words; where the prompt wants it, breaks off before the last, or waits for the gate behind the first."""
    asked = await request.json()
    response = web.StreamResponse()
    await response.prepare(request)
    wish = asked["messages"][0]["content"]
    is_broken = wish == "Break."
    for word in WORDS[: 2 if is_broken else None]:
        chunk = {"choices": [{"delta": {"content": word}}]}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if wish == "Wait.":
            await gate.wait()
    if not is_broken:
        await response.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    return response


@contextlib.asynccontextmanager
async def server(gate: asyncio.Event | None = None) -> AsyncIterator[Server]:
    app = web.Application()
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/chat/completions", partial(_chat, gate or asyncio.Event()))
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with open_server(ServerAddress(f"http://127.0.0.1:{port}/v1/")) as found:
            yield found
    finally:
        await runner.cleanup()


def front(scene: Callable[[Peers, PeerModel], Awaitable[None]]) -> None:
    async def body() -> None:
        broker = MemoryBroker()
        async with server() as found:
            offers = await served_offers(found, (), 4096, lambda: Admission(slots=2, queue=2))
            service = PeerService("garage", "test", broker.connect(), TOPICS, offers)
            peers = Peers(broker.connect(), TOPICS, "kitchen")
            async with background(service.run(), "peer"), background(peers.run(), "device"):
                assert await peers.wait_for_peer(10)
                (model,) = peers.views()[0].status.models
                assert (model.model, model.variant_sha256, model.context_tokens) == ("lamp-7b", None, 2048)
                await scene(peers, PeerModel("garage", model.model, "", ""))

    asyncio.run(body())


def generation(sampling: Sampling = Sampling()) -> Generation:  # noqa: B008  (frozen)
    return Generation("g", "", (), sampling, 64)


def test_answer_comes_as_text_without_ids_and_ends_where_the_server_ends_it() -> None:
    async def scene(peers: Peers, target: PeerModel) -> None:
        steps = [s async for s in RemoteExecutor(peers, target, Traffic(), TURNS).extend(generation())]
        assert b"".join(step.piece for step in steps).decode() == "".join(WORDS)
        assert {step.token for step in steps} == {NO_ID}
        assert [step.is_end for step in steps] == [False] * (len(steps) - 1) + [True]

    front(scene)


def test_server_that_breaks_off_loses_the_answer_and_nobody_else_can_go_on_with_it() -> None:
    async def scene(peers: Peers, target: PeerModel) -> None:
        executor = RemoteExecutor(peers, target, Traffic(), [{"role": "user", "content": "Break."}])
        said: list[bytes] = []

        async def listen() -> None:
            async for step in executor.extend(generation()):
                said.append(step.piece)  # noqa: PERF401  (what came before the error counts)

        with pytest.raises(PeerError, match="broke off"):
            await listen()
        assert said == [b"The ", b"lamp "]
        assert not executor.has_other(0)

    front(scene)


def test_answer_that_ends_while_the_connection_is_away_is_whole_when_it_is_back() -> None:
    async def scene() -> None:
        broker, gate, admission = MemoryBroker(), asyncio.Event(), Admission(slots=1, queue=1)
        async with server(gate) as found:
            far, said = broker.connect(), list[bytes]()
            service = PeerService(
                "garage", "test", far, TOPICS, await served_offers(found, (), 4096, lambda: admission)
            )
            peers = Peers(broker.connect(), TOPICS, "kitchen")
            async with background(service.run(), "peer"), background(peers.run(), "device"):
                assert await peers.wait_for_peer(10)
                turns = [{"role": "user", "content": "Wait."}]
                async for step in RemoteExecutor(
                    peers, PeerModel("garage", "lamp-7b", "", ""), Traffic(), turns
                ).extend(generation()):
                    said.append(step.piece)
                    if len(said) == 1:
                        far.cut()
                        gate.set()
                        while admission.num_running:  # noqa: ASYNC110
                            await asyncio.sleep(0.01)
                        await asyncio.sleep(0.05)
                        far.mend()
            assert b"".join(said).decode() == "".join(WORDS)

    asyncio.run(scene())


def test_what_such_a_server_cannot_do_is_refused_and_the_peer_stays_whole() -> None:
    async def scene(peers: Peers, target: PeerModel) -> None:
        wanted = generation(Sampling(grammar='root ::= "yes"'))
        with pytest.raises(PeerRefusedError, match="grammar"):
            async for _ in RemoteExecutor(peers, target, Traffic(), TURNS).extend(wanted):
                pass
        assert not any(peers.is_broken(view) for view in peers.views())

    front(scene)


def test_models_that_would_have_one_id_are_offered_once_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with server() as found:
            names = ("House/Lamp_7B", "House/Lamp_7B")
            assert len(await served_offers(found, names, 4096, lambda: Admission(slots=1, queue=1))) == 1

    asyncio.run(scene())
    assert "another has the id lamp-7b" in caplog.text


def test_name_that_the_server_does_not_have_is_an_error_with_those_that_it_has() -> None:
    async def scene() -> None:
        async with server() as found:
            with pytest.raises(ConfigError, match=r"no 'lamp'; it has House/Lamp_7B"):
                await served_offers(found, ("lamp",), 4096, lambda: Admission(slots=1, queue=1))

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("name", "known_as"),
    [("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b-instruct"), ("llama3:8b", "llama3-8b"), ("/m/x.gguf", "x.gguf"),
     ("***", "model")],
)  # fmt: skip
def test_servers_name_becomes_an_id_that_fits_topics(name: str, known_as: str) -> None:
    assert id_of(name) == known_as

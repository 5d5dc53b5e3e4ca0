"""Who waits for the model, who is refused, and who left: the real daemon's parts, the real model, real sockets."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from edgeagent.application.http.server import start_http
from edgeagent.core.plan import PlanQuery
from edgeagent.daemon import House, open_house
from edgeagent.execution.admission import Admission, Claim, Priority
from edgeagent.model.resident import Resident
from edgeagent.settings import load_settings

Json = dict[str, Any]
PATIENCE_S = 120.0
TOKENS = {f"token-of-{user}-0123456789": user for user in ("ada", "bob", "cleo")}
STORY = "Tell me a very long story about a lighthouse, a storm and a brave cat."


@dataclass(slots=True)
class Reply:
    status: int
    body: Json
    headers: dict[str, str]


@dataclass(slots=True)
class Desk:
    """A server, and the queue behind it."""

    house: House
    resident: Resident
    port: int
    client: aiohttp.ClientSession
    answered: list[str] = field(default_factory=list)

    @property
    def admission(self) -> Admission:
        return self.resident.local.admission

    async def ask(self, user: str, *, name: str = "", stream: bool = False, **wish: Any) -> Reply:
        """One question; `name` is noted in `answered` when its answer is complete."""
        body = question("Say yes.", 2, stream=stream, **wish)
        async with self.client.post(self.url, json=body, headers=bearer(user)) as reply:
            text = await reply.text()
            self.answered.append(name)
            document = {} if text.startswith("data:") else json.loads(text)
            return Reply(reply.status, document, dict(reply.headers))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():  # noqa: ASYNC110  (what is waited for has no event: it is how the whole daemon stands)
                await asyncio.sleep(0.01)

    async def waiting(self, number: int) -> None:
        await self.until(lambda: self.admission.num_waiting == number)

    async def opened(self, body: Json) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A request on a socket of our own."""
        data = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: {bearer('ada')['Authorization']}"
        )
        writer.write(f"{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return reader, writer


def bearer(user: str = "ada") -> dict[str, str]:
    return {"Authorization": f"Bearer token-of-{user}-0123456789"}


def question(text: str, max_tokens: int, *, stream: bool = False, **wish: Any) -> Json:
    extension = {"plan": "local", "memory": False, "reduce": "L0"} | wish
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "stream": stream,
        "edgeagent": extension,
    }


At = Callable[[Callable[[Desk], Awaitable[None]]], None]


@pytest.fixture
def at_desk(ready_env: dict[str, str]) -> At:
    """At a fresh daemon whose model is loaded: one answer at a time, three may wait, two of one user."""
    tokens = ", ".join(f'"{token}" = "{user}"' for token, user in TOKENS.items())
    env = ready_env | {
        "EDGEAGENT__HTTP__PORT": "0",
        "EDGEAGENT__HTTP__TOKENS": f"{{ {tokens} }}",
        "EDGEAGENT__ENGINE__SEQUENCES": "1",
        "EDGEAGENT__ENGINE__QUEUE": "3",
        "EDGEAGENT__ENGINE__QUEUE_PER_USER": "2",
        "EDGEAGENT__GOVERNOR__ENABLED": "false",
    }

    @contextlib.asynccontextmanager
    async def desk() -> AsyncIterator[Desk]:
        settings = load_settings(environment=env)
        async with open_house(settings, role="test") as house:
            resident = await house.pool.get(settings.config.models.default)
            await resident.whole.facts()
            server = await start_http(settings.config.http, house, logging.getLogger("edgeagent.test"))
            try:
                async with aiohttp.ClientSession() as client:
                    yield Desk(house, resident, server.port, client)
            finally:
                await server.close()

    def run(scene: Callable[[Desk], Awaitable[None]]) -> None:
        async def body() -> None:
            async with desk() as at:
                await scene(at)
                assert at.admission.num_requests == 0

        asyncio.run(body())

    return run


def test_requests_are_answered_by_priority_and_then_as_they_came(at_desk: At) -> None:
    async def scene(desk: Desk) -> None:
        order = [("background", "ada"), ("normal", "bob"), ("interactive", "cleo")]
        async with asyncio.TaskGroup() as group, desk.resident.local.lease():
            for number, (priority, user) in enumerate(order, 1):
                group.create_task(desk.ask(user, name=priority, priority=priority))
                await desk.waiting(number)
            ready = await (await desk.client.get(f"http://127.0.0.1:{desk.port}/ready")).json()
            assert (ready["running"], ready["waiting"]) == (1, 3)
        assert desk.answered == ["interactive", "normal", "background"]

    at_desk(scene)


def test_user_with_a_queue_does_not_delay_the_first_request_of_another(at_desk: At) -> None:
    async def scene(desk: Desk) -> None:
        async with asyncio.TaskGroup() as group, desk.resident.local.lease(Claim("ada")):
            for number, user in enumerate(["ada", "ada", "bob"], 1):
                group.create_task(desk.ask(user, name=user))
                await desk.waiting(number)
        assert desk.answered == ["bob", "ada", "ada"]

    at_desk(scene)


@pytest.mark.parametrize("stream", [False, True])
def test_full_share_is_429_and_full_queue_503_both_with_retry_after(at_desk: At, stream: bool) -> None:
    async def scene(desk: Desk) -> None:
        async with asyncio.TaskGroup() as group, desk.resident.local.lease():
            for number, user in enumerate(["ada", "ada"], 1):
                group.create_task(desk.ask(user, stream=stream))
                await desk.waiting(number)
            own = await desk.ask("ada", stream=stream)
            group.create_task(desk.ask("bob", stream=stream))
            await desk.waiting(3)
            everyone = await desk.ask("cleo", stream=stream)
        for reply, status, kind, code in (
            (own, 429, "rate_limit_error", "rate_limit_exceeded"),
            (everyone, 503, "server_error", "overloaded"),
        ):
            assert (reply.status, reply.body["error"]["type"], reply.body["error"]["code"]) == (status, kind, code)
            assert int(reply.headers["Retry-After"]) >= 1
            assert reply.headers["x-should-retry"] == "true"
        assert (await desk.ask("cleo", stream=stream)).status == 200

    at_desk(scene)


def test_deadline_that_comes_in_the_queue_is_504_and_nothing_was_computed(at_desk: At) -> None:
    async def scene(desk: Desk) -> None:
        async with desk.resident.local.lease():
            reply = await desk.ask("ada", deadline_s=0.2)
        assert (reply.status, reply.body["error"]["code"]) == (504, "deadline_exceeded")
        assert reply.headers["x-should-retry"] == "false"
        assert (await desk.ask("ada", deadline_s=600)).status == 200

    at_desk(scene)


def test_deadline_too_near_after_the_wait_is_504_where_it_would_have_been_met_at_once(at_desk: At) -> None:
    async def scene(desk: Desk) -> None:
        needs_s = (await desk.house.plan(PlanQuery(prompt_tokens=40, max_tokens=128))).chosen.total_s
        wish = question("Say yes.", 128, deadline_s=1.5 * needs_s)
        async with asyncio.TaskGroup() as group, desk.resident.local.lease():
            post = group.create_task(_document(desk, wish))
            await desk.waiting(1)
            await asyncio.sleep(needs_s)
        assert post.result()["error"]["code"] == "deadline_exceeded"
        impossible = await _document(desk, question("Say yes.", 128, deadline_s=1e-3 * needs_s))
        assert impossible["error"]["code"] in ("deadline_exceeded", "no_feasible_plan")

    at_desk(scene)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_the_queue_frees_its_place(at_desk: At, stream: bool) -> None:
    async def scene(desk: Desk) -> None:
        async with desk.resident.local.lease():
            _, writer = await desk.opened(question(STORY, 8, stream=stream))
            await desk.waiting(1)
            writer.transport.abort()
            await desk.waiting(0)
            assert desk.admission.num_requests == 1

    at_desk(scene)


def test_client_that_leaves_an_answer_stops_the_model_within_a_step(
    at_desk: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(desk: Desk) -> None:
        worker = desk.resident.local._worker
        assert worker is not None
        late: list[Json] = []
        deliver = worker._deliver

        def counted(message: Json, bulk: bytes) -> None:
            if message["id"] not in worker._pending and "event" in message:
                late.append(message)
            deliver(message, bulk)

        monkeypatch.setattr(worker, "_deliver", counted)
        reader, writer = await desk.opened(question(STORY, 300, stream=True))
        await reader.readuntil(b'"content":"')
        await reader.readuntil(b'"content":"')
        assert desk.admission.num_running == 1
        writer.transport.abort()
        await desk.until(lambda: desk.admission.num_requests == 0)
        # The engine answers this after everything that it had begun.
        assert await desk.resident.local.count(["one two three"])
        # The step under way when the word came, and one whose token was on its way here.
        assert len(late) <= 2

    at_desk(scene)


def test_client_that_leaves_a_whole_answer_frees_the_model(at_desk: At) -> None:
    async def scene(desk: Desk) -> None:
        _, writer = await desk.opened(question(STORY, 300))
        await desk.until(lambda: desk.admission.num_running == 1)
        writer.transport.abort()
        await desk.until(lambda: desk.admission.num_requests == 0)
        assert (await desk.ask("bob")).status == 200

    at_desk(scene)


def test_decisions_of_the_agent_wait_as_the_request_does(at_desk: At) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "send_note",
            "description": "Send a note to a person",
            "parameters": {
                "type": "object",
                "properties": {"person": {"type": "string"}},
                "required": ["person"],
            },
        },
    }

    async def scene(desk: Desk) -> None:
        body = question("Send a note to Tom or to Ann about dinner.", 8, priority="background", deadline_s=900)
        body |= {"tools": [tool], "tool_choice": "required"}
        async with asyncio.TaskGroup() as group:
            async with desk.resident.local.lease():
                post = group.create_task(_document(desk, body))
                await desk.waiting(1)
                claim = desk.admission._queue.waiting[0].claim
            assert (claim.user, claim.priority) == ("ada", Priority.LOW)
            assert claim.deadline_s is not None
        assert post.result()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "send_note"

    at_desk(scene)


async def _document(desk: Desk, body: Json) -> Json:
    async with desk.client.post(desk.url, json=body, headers=bearer()) as reply:
        document: Json = await reply.json()
        return document

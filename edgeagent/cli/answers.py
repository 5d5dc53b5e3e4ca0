"""One question to the assistant: through the daemon when one answers on the configured address, else right here."""

import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeagent.core import errors
from edgeagent.core.chat import ChatRequest, Message
from edgeagent.core.errors import EdgeAgentError
from edgeagent.core.events import Finished, Text, ToolCalled
from edgeagent.settings import Settings

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 0.5
SILENCE_S = 300.0
"""So long the daemon may be silent in the middle of an answer."""
Json = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What `ask --json` prints."""

    text: str = ""
    tool_calls: list[Json] = field(default_factory=list)
    usage: Json = field(default_factory=dict)
    edgeagent: Json = field(default_factory=dict)

    def document(self) -> Json:
        return {
            "text": self.text,
            "tool_calls": self.tool_calls,
            "usage": self.usage,
            "edgeagent": self.edgeagent,
        }


class Line:
    """Where questions go; opened by `connect`, kept over the turns of a chat."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncGenerator["Line", None]:
        """Raises what composing the house raises, when no daemon answers."""
        if await self._daemon_answers():
            self.is_daemon = True
            yield self
            return
        from edgeagent.daemon import open_house

        self.is_daemon = False
        async with open_house(self._settings, role="cli") as self._house:
            yield self

    async def ask(self, request: ChatRequest, outcome: Outcome) -> AsyncGenerator[str, None]:
        """The answer's text as it comes; `outcome` is complete at the end. Raises EdgeAgentError."""
        source = self._ask_daemon(request, outcome) if self.is_daemon else self._ask_here(request, outcome)
        async with contextlib.aclosing(source) as texts:
            async for text in texts:
                outcome.text += text
                yield text

    async def reflect(self, user: str, most: int) -> list[str]:
        """The ids of new summaries of the user's sessions. Raises EdgeAgentError."""
        if not self.is_daemon:
            return await self._house.reflect(user, most)
        name, _, agent = user.partition("/")
        query = {"user": name} | ({"agent": agent} if agent else {})
        async with self._client(name, silence_s=None) as client:  # it waits for the others
            url = f"{self._base}/api/edge/memory/reflect"
            async with client.post(url, params=query, json={"most": most}) as reply:
                document = await reply.json()
                if reply.status != 200:
                    raise _error(document["error"])
                return [str(id_) for id_ in document["ids"]]

    @property
    def _base(self) -> str:
        http = self._settings.config.http
        return f"http://{http.host}:{http.port}"

    async def _daemon_answers(self) -> bool:
        import aiohttp

        if self._settings.config.http.port == 0:
            return False
        timeout = aiohttp.ClientTimeout(total=2, connect=CONNECT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as client, client.get(f"{self._base}/health") as reply:
                return bool(reply.status == 200 and (await reply.json()).get("status") == "ok")
        except (aiohttp.ClientError, TimeoutError, ValueError, AttributeError):
            return False

    async def _ask_here(self, request: ChatRequest, outcome: Outcome) -> AsyncGenerator[str, None]:
        user = request.edgeagent.user or self._settings.config.memory.user
        async with contextlib.aclosing(self._house.answer(request, user)) as events:
            async for event in events:
                if isinstance(event, Text):
                    yield event.text
                elif isinstance(event, ToolCalled):
                    outcome.tool_calls.append(event.call.model_dump())
                elif isinstance(event, Finished):
                    prompt, made = event.usage.prompt_tokens, event.usage.completion_tokens
                    outcome.usage = _usage(prompt, made)
                    outcome.edgeagent = event.report.model_dump(by_alias=True, mode="json")

    async def _ask_daemon(self, request: ChatRequest, outcome: Outcome) -> AsyncGenerator[str, None]:
        async with (
            self._client() as client,
            client.post(f"{self._base}/v1/chat/completions", json=_body(request)) as reply,
        ):
            if reply.status != 200:
                raise _error((await reply.json())["error"])
            async for line in reply.content:
                if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                    for text in _take(json.loads(line[6:]), outcome):
                        yield text

    @contextlib.asynccontextmanager
    async def _client(
        self, user: str | None = None, silence_s: float | None = SILENCE_S
    ) -> AsyncGenerator["aiohttp.ClientSession", None]:
        """To the daemon, with a token of the user where there is one. Raises EngineLostError when it breaks off."""
        import aiohttp

        tokens = self._settings.config.http.tokens
        token = next((token for token, owner in tokens.items() if owner == user), next(iter(tokens), None))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=silence_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as client:
                yield client
        except (aiohttp.ClientError, TimeoutError) as error:
            raise errors.EngineLostError(f"the daemon at {self._base} broke off ({error}); ask again") from None


def _usage(prompt: int, made: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _take(chunk: Json, outcome: Outcome) -> list[str]:
    if "error" in chunk:
        raise _error(chunk["error"])
    outcome.edgeagent = chunk.get("edgeagent") or outcome.edgeagent
    outcome.usage = chunk.get("usage") or outcome.usage
    step = chunk.get("edgeagent_event") or {}
    if step.get("type") == "tool_called":
        outcome.tool_calls.append(step["call"])
    return [choice["delta"]["content"] for choice in chunk["choices"] if choice["delta"].get("content")]


def _error(body: Json) -> EdgeAgentError:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeAgentError)]
    kind = next((kind for kind in kinds if kind.code == body.get("code")), EdgeAgentError)
    return kind(str(body["message"]))


def _body(request: ChatRequest) -> Json:
    extension = request.edgeagent.model_dump(mode="json")
    extension |= {"events": True, "documents": [d.model_dump() for d in request.documents]}
    return {
        "model": request.model,
        "messages": [_message(m) for m in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": request.sampling.temperature,
        "seed": request.sampling.seed,
        "max_tokens": request.max_tokens,
        "edgeagent": extension,
    }


def _message(message: Message) -> Json:
    return {"role": message.role, "content": message.content}

"""/api/edge/memory: a user sees, adds, corrects and forgets what is remembered for them, or by an agent of theirs."""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeagent.application.backend import Backend
from edgeagent.application.http.errors import from_validation
from edgeagent.application.http.guards import USER_NAME, Gate, read_body
from edgeagent.core.errors import RequestError

_AGENT = f"^(?:{USER_NAME.pattern})$"


class Owner(BaseModel):
    """The query string of every request; `agent` names one whose own memories are meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = None
    agent: str | None = Field(default=None, pattern=_AGENT)


class MemoryQuery(Owner):
    query: str | None = Field(default=None, min_length=1, max_length=4096)
    limit: int = Field(default=20, ge=1, le=200)
    kind: str | None = Field(default=None, min_length=1, max_length=16)
    """Of a list, which has no query."""


_Query = TypeVar("_Query", bound=Owner)


class Text(BaseModel):
    """The body of a memory that is added, or corrected (its source then stays)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    source: str = ""


class Reflection(BaseModel):
    """How many sessions to sum up at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most: int = Field(default=1, ge=1, le=10)


_Body = TypeVar("_Body", Text, Reflection)


class Memories:
    def __init__(self, backend: Backend, gate: Gate) -> None:
        self._backend = backend
        self._gate = gate

    async def get(self, request: web.Request) -> web.Response:
        query = _checked(MemoryQuery, request)
        space = self._space(request, query)
        if query.query is not None and query.kind is not None:
            raise RequestError("a search looks at all kinds; leave out either query or kind")
        hits = await self._backend.memories(space, query.query, query.limit, query.kind)
        found = [hit.item.model_dump(mode="json") | {"score": hit.score} for hit in hits]
        return web.json_response({"user": space, "memories": found})

    async def get_one(self, request: web.Request) -> web.Response:
        space, id_ = self._space(request, _checked(Owner, request)), request.match_info["id"]
        item = await self._backend.recollect(space, id_)
        return web.json_response({"user": space, "memory": item.model_dump(mode="json")})

    async def post(self, request: web.Request) -> web.Response:
        space = self._space(request, _checked(Owner, request))
        body = await _body(Text, request)
        id_ = await self._backend.remember(space, body.text, body.source)
        return web.json_response({"user": space, "id": id_}, status=201)

    async def reflect(self, request: web.Request) -> web.Response:
        """The answer comes when it is done, which other requests put off."""
        space = self._space(request, _checked(Owner, request))
        ids = await self._backend.reflect(space, (await _body(Reflection, request)).most)
        return web.json_response({"user": space, "ids": ids})

    async def put(self, request: web.Request) -> web.Response:
        space, id_ = self._space(request, _checked(Owner, request)), request.match_info["id"]
        summaries = await self._backend.correct(space, id_, (await _body(Text, request)).text)
        return web.json_response({"user": space, "corrected": id_, "summaries": summaries})

    async def delete(self, request: web.Request) -> web.Response:
        space, id_ = self._space(request, _checked(Owner, request)), request.match_info["id"]
        summaries = await self._backend.forget(space, id_)
        return web.json_response({"user": space, "forgotten": id_, "summaries": summaries})

    def _space(self, request: web.Request, owner: Owner) -> str:
        user = self._gate.narrowed(request, owner.user)
        return user if owner.agent is None else f"{user}/{owner.agent}"


def _checked(kind: type[_Query], request: web.Request) -> _Query:
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as error:
        raise from_validation(error) from None


async def _body(kind: type[_Body], request: web.Request) -> _Body:
    try:
        return kind.model_validate_json(await read_body(request))
    except ValidationError as error:
        raise from_validation(error) from None

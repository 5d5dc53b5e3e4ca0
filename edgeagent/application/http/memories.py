"""/api/edge/memory: a user sees, adds, corrects and forgets what is remembered for them, or by an agent of theirs."""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeagent.application.backend import Backend
from edgeagent.application.http.errors import from_validation
from edgeagent.application.http.guards import USER_NAME, Gate, read_body

_AGENT = f"^(?:{USER_NAME.pattern})$"


class Owner(BaseModel):
    """The query string of every request; `agent` names one whose own memories are meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str | None = None
    agent: str | None = Field(default=None, pattern=_AGENT)


class MemoryQuery(Owner):
    query: str | None = Field(default=None, min_length=1, max_length=4096)
    limit: int = Field(default=20, ge=1, le=200)


_Query = TypeVar("_Query", bound=Owner)


class Text(BaseModel):
    """The body of a memory that is added, or corrected (its source then stays)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    source: str = ""


class Memories:
    def __init__(self, backend: Backend, gate: Gate) -> None:
        self._backend = backend
        self._gate = gate

    async def get(self, request: web.Request) -> web.Response:
        query = _checked(MemoryQuery, request)
        space = self._space(request, query)
        hits = await self._backend.memories(space, query.query, query.limit)
        found = [hit.item.model_dump(mode="json") | {"score": hit.score} for hit in hits]
        return web.json_response({"user": space, "memories": found})

    async def post(self, request: web.Request) -> web.Response:
        space = self._space(request, _checked(Owner, request))
        body = await _text(request)
        id_ = await self._backend.remember(space, body.text, body.source)
        return web.json_response({"user": space, "id": id_}, status=201)

    async def put(self, request: web.Request) -> web.Response:
        space, id_ = self._space(request, _checked(Owner, request)), request.match_info["id"]
        await self._backend.correct(space, id_, (await _text(request)).text)
        return web.json_response({"user": space, "corrected": id_})

    async def delete(self, request: web.Request) -> web.Response:
        space, id_ = self._space(request, _checked(Owner, request)), request.match_info["id"]
        await self._backend.forget(space, id_)
        return web.json_response({"user": space, "forgotten": id_})

    def _space(self, request: web.Request, owner: Owner) -> str:
        user = self._gate.narrowed(request, owner.user)
        return user if owner.agent is None else f"{user}/{owner.agent}"


def _checked(kind: type[_Query], request: web.Request) -> _Query:
    try:
        return kind.model_validate(dict(request.query))
    except ValidationError as error:
        raise from_validation(error) from None


async def _text(request: web.Request) -> Text:
    try:
        return Text.model_validate_json(await read_body(request))
    except ValidationError as error:
        raise from_validation(error) from None

"""The addresses of this server besides chat: models, health, and what the machine knows about itself."""

from collections.abc import Iterable
from dataclasses import asdict

from aiohttp import web
from pydantic import BaseModel, ValidationError

from edgeagent import __version__
from edgeagent.application.backend import Backend
from edgeagent.application.http.chat import ChatRoute
from edgeagent.application.http.completion import Json
from edgeagent.application.http.errors import from_validation
from edgeagent.application.http.guards import Gate, read_body
from edgeagent.application.http.memories import Memories
from edgeagent.application.http.metrics import CONTENT_TYPE, metrics
from edgeagent.application.http.page import Page
from edgeagent.core.cards import ModelCard
from edgeagent.core.errors import ModelNotFoundError
from edgeagent.core.plan import PlanQuery


class Facts:
    """Answers what needs no generation. `is_draining` turns /ready off while the last answers finish."""

    def __init__(self, backend: Backend, gate: Gate) -> None:
        self._backend = backend
        self._gate = gate
        self.is_draining = False

    async def models(self, request: web.Request) -> web.Response:
        elsewhere = [_peer_body(id_, peer) for id_, peer in self._backend.elsewhere().items()]
        here = [_model_body(card) for card in self._backend.models()]
        return web.json_response({"object": "list", "data": here + elsewhere})

    async def model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["id"]
        if card := self._backend.offered(wanted):
            return web.json_response(_model_body(card))
        if peer := self._backend.elsewhere().get(wanted):
            return web.json_response(_peer_body(wanted, peer))
        raise ModelNotFoundError(f"model '{wanted}' is not here; see /v1/models")

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": __version__})

    async def ready(self, request: web.Request) -> web.Response:
        is_ready, why = (False, "the daemon is ending") if self.is_draining else self._backend.is_ready()
        body = {"ready": is_ready, "why": why, **asdict(self._backend.load())}
        return web.json_response(body, status=200 if is_ready else 503)

    async def peers(self, request: web.Request) -> web.Response:
        return web.json_response({"peers": [asdict(peer) for peer in self._backend.peer_facts()]})

    async def metrics(self, request: web.Request) -> web.Response:
        text = metrics(self._backend.load(), self._backend.peer_facts())
        return web.Response(text=text, headers={"Content-Type": CONTENT_TYPE})

    async def profile(self, request: web.Request) -> web.Response:
        return _document(await self._backend.profile())

    async def plan(self, request: web.Request) -> web.Response:
        try:
            query = PlanQuery.model_validate_json(await read_body(request))
        except ValidationError as error:
            raise from_validation(error) from None
        return _document(await self._backend.plan(query))


def routes(chat: ChatRoute, facts: Facts, memories: Memories, page: Page) -> Iterable[web.RouteDef]:
    return [
        web.get("/", page.index),
        web.get("/ui/{name}", page.asset),
        web.post("/v1/chat/completions", chat.post),
        web.get("/v1/models", facts.models),
        web.get("/v1/models/{id:.+}", facts.model),
        web.get("/health", facts.health),
        web.get("/ready", facts.ready),
        web.get("/metrics", facts.metrics),
        web.get("/api/edge/peers", facts.peers),
        web.get("/api/edge/profile", facts.profile),
        web.post("/api/edge/plan", facts.plan),
        web.get("/api/edge/memory", memories.get),
        web.post("/api/edge/memory", memories.post),
        web.post("/api/edge/memory/reflect", memories.reflect),
        web.get("/api/edge/memory/{id}", memories.get_one),
        web.put("/api/edge/memory/{id}", memories.put),
        web.delete("/api/edge/memory/{id}", memories.delete),
    ]


def _document(model: BaseModel) -> web.Response:
    return web.Response(text=model.model_dump_json(by_alias=True), content_type="application/json")


def _peer_body(id_: str, peer: str) -> Json:
    """The same of a model that only a peer knows."""
    return {"id": id_, "object": "model", "created": 0, "owned_by": f"peer {peer}"}


def _model_body(card: ModelCard) -> Json:
    """OpenAI's model object; cards carry no date, so `created` is 0."""
    facts = {
        "name": card.name,
        "kind": card.kind,
        "licence": card.licence,
        "parameters": card.parameters,
        "context_tokens": card.architecture.context_tokens if card.architecture else None,
        "variants": [variant.name for variant in card.whole_variants],
        "adapters": {adapter.name: adapter.purpose for adapter in card.adapters},
    }
    return {"id": card.id, "object": "model", "created": 0, "owned_by": "edgeagent", "edgeagent": facts}

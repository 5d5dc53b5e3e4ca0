"""Composition root: the only place that picks concrete classes, and that owns their lifetimes."""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from edgeagent.agent.answering import Answerer
from edgeagent.agent.arriving import Door
from edgeagent.agent.assistant import Assistant
from edgeagent.agent.cascading import Cascade
from edgeagent.agent.idle import IdleWork
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.situation import Surroundings
from edgeagent.application.backend import Load, PeerFacts
from edgeagent.application.recording import Recorder
from edgeagent.broker import Trust, background, connect_broker
from edgeagent.core.cards import ModelCard
from edgeagent.core.chat import ChatRequest
from edgeagent.core.errors import MemoryStoreError
from edgeagent.core.events import Event, Finished
from edgeagent.core.hardware import Profile
from edgeagent.core.memory import MemoryHit, MemoryItem
from edgeagent.core.plan import Decision, PlanQuery
from edgeagent.execution.durable import Outbox
from edgeagent.execution.outbox import Sender
from edgeagent.execution.peers import Peers, PeerView
from edgeagent.execution.recent_vectors import RecentVectors
from edgeagent.model.governing import Governing
from edgeagent.model.pool import ModelPool
from edgeagent.model.power_mode import switch_mode
from edgeagent.model.rechecking import Rechecking
from edgeagent.model.standing_in import StandingIn
from edgeagent.model.store import ModelStore
from edgeagent.parts import (
    device_id,
    embedder,
    governor_limits,
    kv_store,
    memory_of,
    model_store,
    places,
    profile,
    profile_with,
    selection_limits,
    selection_machine,
    sensors,
    usable_cores,
    usual_levers,
)
from edgeagent.resource.capability import engine_build, release_fault
from edgeagent.resource.probes.sysroot import Sysroot
from edgeagent.resource.profile import keep_rates
from edgeagent.settings import Settings
from edgeagent.wire.topics import Topics

PEER_WAIT_S = 1.0
"""How long a fresh start waits for retained peer statuses: the broker sends them with the subscription."""


_SWITCHED_OFF = "memory is switched off; set memory.enabled = true"


@dataclass(slots=True)
class House:
    """Everything that runs, for the surfaces: see `application.backend.Backend`."""

    settings: Settings
    store: ModelStore
    pool: ModelPool
    memory: Memory | None
    assistant: Assistant
    peers: Peers | None
    recorder: Recorder | None = None
    idle: IdleWork | None = None

    async def answer(self, request: ChatRequest, user: str) -> AsyncGenerator[Event, None]:
        async with contextlib.aclosing(self.assistant.answer(request, user)) as events:
            async for event in events:
                if isinstance(event, Finished) and self.recorder:
                    await self.recorder.note(event)
                yield event

    def models(self) -> list[ModelCard]:
        default = self.settings.config.models.default
        return sorted(filter(self._is_offered, self.store.registry.cards), key=lambda card: card.id != default)

    def offered(self, wanted: str | None) -> ModelCard | None:
        name = wanted or self.settings.config.models.default
        card = next((card for card in self.store.registry.cards if card.id == name), None)
        if card is not None and self._is_offered(card):
            return card
        return None if wanted else next(iter(self.models()), None)

    def _is_offered(self, card: ModelCard) -> bool:
        return card.architecture is not None and (card.id in self._peer_models() or self.has(card.id))

    def elsewhere(self) -> Mapping[str, str]:
        return _elsewhere(self.store, self.peers)

    def has(self, model_id: str) -> bool:
        return self.pool.has(model_id)

    def _peer_models(self) -> set[str]:
        views = self.peers.views() if self.peers else []
        return {model.model for view in views for model in view.status.models}

    async def profile(self) -> Profile:
        return await profile(self.settings)

    async def plan(self, query: PlanQuery) -> Decision:
        return await self.assistant.price(query)

    async def memories(self, user: str, query: str | None, limit: int, kind: str | None = None) -> list[MemoryHit]:
        if query:
            return await self._remembering.search(user, query, limit)
        return [MemoryHit(item=item, score=0.0) for item in await self._remembering.list(user, limit, kind)]

    async def remember(self, user: str, text: str, source: str) -> str:
        return await self._remembering.add(user, text, "note", source)

    async def correct(self, user: str, id_: str, text: str) -> tuple[str, ...]:
        return await self._remembering.correct(user, id_, text)

    async def forget(self, user: str, id_: str) -> tuple[str, ...]:
        return await self._remembering.forget(user, id_)

    async def recollect(self, user: str, id_: str) -> MemoryItem:
        return await self._remembering.item(user, id_)

    async def reflect(self, user: str, most: int) -> list[str]:
        if self.idle is None:
            raise MemoryStoreError(_SWITCHED_OFF)
        return await self.idle.reflect(user, most, lambda: self.pool.lease(self.settings.config.models.default))

    @property
    def _remembering(self) -> Memory:
        if self.memory is None:
            raise MemoryStoreError(_SWITCHED_OFF)
        return self.memory

    def is_ready(self) -> tuple[bool, str]:
        if told := release_fault(engine_build()):
            return False, told
        default = self.settings.config.models.default
        if not self.has(default):
            return False, f"no file of {default} is here; run 'edgeagent models pull {default}'"
        return True, f"{default} can be loaded"

    def peer_facts(self) -> list[PeerFacts]:
        return [_facts(view, self.peers) for view in self.peers.views()] if self.peers else []

    def load(self) -> Load:
        queues = [resident.local.admission for resident in self.pool.residents]
        return Load(sum(queue.num_running for queue in queues), sum(queue.num_waiting for queue in queues))


def _facts(view: PeerView, peers: Peers) -> PeerFacts:
    status, link = view.status, view.link
    return PeerFacts(
        id=status.id,
        state=status.state,
        is_broken=peers.is_broken(view),
        models=tuple(f"{model.model}/{model.variant}" for model in status.models),
        queue=status.queue,
        capacity=status.capacity,
        wait_s=status.wait_s,
        rtt_s=link.rtt_s,
        down_bytes_s=link.down_bytes_s,
        up_bytes_s=link.up_bytes_s,
    )


@contextlib.asynccontextmanager
async def open_house(settings: Settings, *, role: str) -> AsyncIterator[House]:
    """All floors, composed. `role` tells this process' broker connection from others of the same device.

    Raises ConfigError, MemoryStoreError, and PeerLostError when a configured broker does not answer.
    """
    config = settings.config
    store = model_store(settings)
    encoder = embedder(settings, store)
    vectors = RecentVectors(encoder)
    kept = kv_store(settings)
    pool = ModelPool(
        store,
        config.engine,
        lambda model: profile_with(settings, model),
        lambda: governing.narrowed(selection_limits(settings)),
        lambda profile: selection_machine(settings, profile),
        kept,
        draws_here=not config.policy.text_may_leave and role != "peer",
    )
    governing = Governing(
        config.governor,
        governor_limits(settings),
        sensors(settings),
        pool,
        usual=usual_levers(settings),
        cores=usable_cores(),
        switch_mode=(lambda mode: switch_mode(Sysroot(), mode)) if config.governor.switch_power_mode else None,
    )
    rechecking = Rechecking(pool, lambda key, rates: keep_rates(places(settings), key, rates))
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(encoder.close)
        if kept:
            stack.callback(kept.close)
        stack.push_async_callback(pool.drain, config.engine.drain_s)
        memory = None
        if config.memory.enabled:
            memory = await memory_of(settings, vectors, encoder)
            stack.push_async_callback(memory.close)
        peers, recorder = await stack.enter_async_context(_broker(settings, role))
        await stack.enter_async_context(background(pool.unload_idle(), "unload-idle"))
        await stack.enter_async_context(background(governing.run(), "governor"))
        await stack.enter_async_context(background(rechecking.run(), "recheck-rates"))
        does_idle_work = config.memory.idle_work
        idle = IdleWork(pool, memory, governing.idle_hindrance, takes_notes=does_idle_work) if memory else None
        if idle and does_idle_work:
            await stack.enter_async_context(background(idle.run(), "idle-work"))
        standing_in = StandingIn(pool, store.registry, config.models.default)
        answerer = Answerer(Surroundings(config.policy, config.models, peers), vectors, standing_in.lease)
        assistant = Assistant(
            _door(settings, pool, governing, lambda: _elsewhere(store, peers)),
            answerer,
            vectors,
            memory,
            tools=config.tools.enabled,
            new_id=lambda: f"call_{secrets.token_hex(8)}",
            now=time.time,
            layout=config.policy.layout,
            cascade=_cascade(settings, pool, answerer),
            on_local_answer=rechecking.note,
            writes_back=config.memory.write_back,
            idle=idle,
        )
        yield House(settings, store, pool, memory, assistant, peers, recorder, idle)


def _door(settings: Settings, pool: ModelPool, governor: Governing, elsewhere: Callable[[], Mapping[str, str]]) -> Door:
    engine = settings.config.engine
    return Door(
        pool,
        governor,
        default_model=settings.config.models.default,
        queue=engine.queue,
        per_user=engine.user_queue,
        elsewhere=elsewhere,
    )


def _elsewhere(store: ModelStore, peers: Peers | None) -> Mapping[str, str]:
    """Models that have no card here and a peer offers, with that peer."""
    known = {card.id for card in store.registry.cards}
    views = peers.views() if peers else []
    return {m.model: view.status.id for view in views for m in view.status.models if m.model not in known}


def _cascade(settings: Settings, pool: ModelPool, answerer: Answerer) -> Cascade | None:
    models = settings.config.models
    if not models.cascade:
        return None
    small, larger = models.cascade
    return Cascade(pool, answerer, settings.paths.models, small=small, larger=larger, default_model=models.default)


@contextlib.asynccontextmanager
async def _broker(settings: Settings, role: str) -> AsyncIterator[tuple[Peers | None, Recorder | None]]:
    """What is done over the broker."""
    config = settings.config.mqtt
    if not config.url or role == "peer":  # a peer asks no other
        yield None, None
        return
    device, topics = device_id(settings), Topics(config.prefix)
    trust = Trust.of(settings)
    transport = await connect_broker(settings, f"edgeagent-{device}-{role}", trust, is_lasting=role == "daemon")
    try:
        way = trust.device(device)
        peers = Peers(transport, topics, device, way)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(background(peers.run(), "peers"))
            await stack.enter_async_context(trust.followed(transport, topics, peers.review))
            recorder = None
            if config.records and role == "daemon":
                outbox = Outbox(settings.paths.outbox)
                stack.callback(outbox.close)
                sender = Sender(outbox, transport, topics, device, way)
                recorder = Recorder(sender, time.time)
                await stack.enter_async_context(background(sender.run(), "outbox"))
            await peers.wait_for_peer(PEER_WAIT_S)
            yield peers, recorder
    finally:
        await transport.close()

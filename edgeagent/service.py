"""Long-running processes: the daemon and the peer, with signals, readiness and the watchdog."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial

from edgeagent import __version__
from edgeagent.application.collecting import collect
from edgeagent.application.http.server import start_http
from edgeagent.application.notify import ServiceManager, watchdog
from edgeagent.application.peer import PeerService
from edgeagent.application.peer_job import Offer, Ready
from edgeagent.application.relaying import Relay
from edgeagent.application.served_offers import served_offers
from edgeagent.broker import Trust, background, connect_broker
from edgeagent.core.errors import ConfigError, EdgeAgentError
from edgeagent.daemon import open_house
from edgeagent.execution.admission import Admission
from edgeagent.execution.durable import Collection, Keeping
from edgeagent.execution.local import LocalModel
from edgeagent.execution.peers import Peers
from edgeagent.execution.served import ServerAddress, open_server
from edgeagent.execution.stages import StageModel
from edgeagent.execution.transport.mqtt import LastWill
from edgeagent.model.beside import measure_beside
from edgeagent.model.pool import ModelPool
from edgeagent.model.tails import Tails
from edgeagent.parts import device_id, known_profile, selection_limits, selection_machine, spawn_llama
from edgeagent.settings import Settings, load_settings
from edgeagent.wire.messages import OfferedModel, PeerStatus
from edgeagent.wire.topics import Topics

log = logging.getLogger(__name__)


async def serve_house(settings: Settings) -> None:
    """The daemon. Raises EdgeAgentError when it cannot start: a bad setting, a taken port, no broker."""
    async with _signals(settings) as (stop, manager), open_house(settings, role="daemon") as house:
        server = await start_http(
            settings.config.http, house, logging.getLogger("edgeagent.http"), owner=settings.config.memory.user
        )
        try:
            is_able, why = house.is_ready()
            level = logging.INFO if is_able else logging.WARNING
            log.log(level, "daemon ready", extra={"host": settings.config.http.host, "port": server.port, "model": why})
            manager.ready(why if is_able else f"not able to answer: {why}")
            await stop.wait()
            manager.stopping("finishing the answers under way")
        finally:
            await server.close()
    log.info("daemon stopped")


async def serve_peer(settings: Settings) -> None:
    """The peer. Raises EdgeAgentError when it cannot start: no broker, no model."""
    topics, peer, trust = Topics(settings.config.mqtt.prefix), device_id(settings), Trust.of(settings)
    way = trust.peer(peer)
    gone = PeerStatus(id=peer, state="offline").model_dump_json(exclude_none=True).encode()
    will = LastWill(topics.peer_status(peer), gone)
    async with _signals(settings) as (stop, manager), contextlib.AsyncExitStack() as stack:
        transport = await connect_broker(settings, f"edgeagent-{peer}-peer", trust, will, is_lasting=True)
        stack.push_async_callback(transport.close)
        offers = await _offers(settings, stack)
        relay: Relay | None = None
        if settings.config.peer.relay:
            variants = [offer.model.variant_sha256 for offer in offers]
            relay = Relay(Peers(transport, topics, peer, trust.device(peer)), peer, variants)
            await stack.enter_async_context(background(relay.run(), "relay"))
        capacity = settings.config.engine.queue + settings.config.engine.sequences
        service = PeerService(peer, __version__, transport, topics, offers, way, capacity=capacity, relay=relay)

        def review() -> None:
            service.review()
            if relay:
                relay.peers.review()

        if settings.config.peer.collect:
            config = settings.config.peer
            collection = Collection(settings.paths.collected, Keeping(config.collect_bytes, config.collect_days))
            stack.callback(collection.close)
            collecting = collect(collection, transport, topics, peer, way)
            await stack.enter_async_context(background(collecting, "collect"))
        async with background(service.run(), "peer"), trust.followed(transport, topics, review):
            log.info("peer ready", extra={"peer": peer, "models": [o.model.model for o in offers]})
            manager.ready(f"peer {peer} offers {len(offers)} models")
            await stop.wait()
            manager.stopping("leaving the broker")
    log.info("peer stopped")


def _offered(settings: Settings) -> tuple[str, ...]:
    return settings.config.peer.models or (settings.config.models.default,)


async def _beside_wholes(settings: Settings, pool: ModelPool) -> int:
    """Bytes that models may take beside those that are offered whole."""
    wholes = [await pool.get(model_id) for model_id in _offered(settings)]
    return max(0, selection_limits(settings).memory_bytes - sum(whole.memory_bytes for whole in wholes))


async def _offers(settings: Settings, stack: contextlib.AsyncExitStack) -> list[Offer]:
    """What this peer runs, or has run; both as long as the stack is open."""
    peer = settings.config.peer
    if peer.backend == "openai":
        server = await stack.enter_async_context(open_server(ServerAddress(peer.openai_url, peer.openai_key)))
        return await served_offers(server, peer.models, peer.openai_context_tokens, lambda: _admission(settings))
    house = await stack.enter_async_context(open_house(settings, role="peer"))
    repacked = selection_machine(settings, known_profile(settings)).repacked
    tails = Tails(house.store, spawn_llama, await _beside_wholes(settings, house.pool), repacked)
    stack.push_async_callback(tails.close)
    return await _own_offers(settings, house.pool, tails)


def _admission(settings: Settings) -> Admission:
    """Turns at one model of another server, as many as at one of ours."""
    engine = settings.config.engine
    return Admission(slots=engine.sequences, queue=engine.queue, per_user=engine.user_queue)


async def _own_offers(settings: Settings, pool: ModelPool, tails: Tails) -> list[Offer]:
    """Loads each model once, so that its offer says what the engine says."""
    offers: list[Offer] = []
    for model_id in _offered(settings):
        async with pool.lease(model_id) as resident:
            facts = await resident.whole.facts()
            assert resident.variant.sha256 is not None
            model = OfferedModel(
                model=resident.card.id,
                variant=resident.variant.name,
                variant_sha256=resident.variant.sha256,
                exact_key=facts.exact_key,
                prefill_tok_s=resident.rates.prefill_tok_s,
                decode_tok_s=resident.rates.decode_tok_s,
                context_tokens=facts.context_tokens,
                kv_bytes_per_token=facts.kv_bytes_per_token,
                cuts=await tails.cuts(resident),
                final_hidden=True,
                slots=resident.whole.settings.sequences,
                beside=await measure_beside(resident),
                most_between=await tails.most_between(resident) if settings.config.peer.relay else 0,
            )
        name = f"{model.model}/{model.variant}"
        stages = partial(_stage, pool, tails, name)
        ready = partial(_ready, tails, model)
        offers.append(Offer(model, partial(_engine, pool, name), stages, stages, ready=ready))
    return offers


def _ready(tails: Tails, model: OfferedModel) -> Ready:
    making_s = tails.making_s(model.model, model.variant, model.decode_tok_s)
    return Ready(tails.loaded(model.model, model.variant), making_s)


@contextlib.asynccontextmanager
async def _engine(pool: ModelPool, variant: str) -> AsyncIterator[LocalModel]:
    async with pool.lease(variant) as resident:
        yield resident.whole


@contextlib.asynccontextmanager
async def _stage(
    pool: ModelPool, tails: Tails, variant: str, k: int, end: int | None = None
) -> AsyncIterator[StageModel]:
    async with pool.lease(variant) as resident, tails.lease(resident, k, end) as stage:
        yield stage


@contextlib.asynccontextmanager
async def _signals(settings: Settings) -> AsyncIterator[tuple[asyncio.Event, ServiceManager]]:
    """An event that SIGTERM and SIGINT set, SIGHUP wired to a reload, and the service manager's watchdog fed."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, settings, manager)
    try:
        if manager.watchdog_s is None:
            yield stop, manager
            return
        async with background(watchdog(manager.watchdog_s / 2, manager.alive), "watchdog"):
            yield stop, manager
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _reload(settings: Settings, manager: ServiceManager) -> None:
    """Read the settings again: the log level changes now; whatever else changed is named, and needs a restart."""
    manager.reloading(time.monotonic())
    try:
        fresh = load_settings(settings.named_file)
    except (ConfigError, EdgeAgentError) as error:
        log.error("reload failed, settings stay as they are: %s", error)
    else:
        logging.getLogger("edgeagent").setLevel(fresh.config.log.level.upper())
        before, after = settings.config.model_dump(), fresh.config.model_dump()
        waiting = sorted(name for name in after if name != "log" and after[name] != before[name])
        log.info("settings reloaded", extra={"applied": "log.level", "needs_restart": ",".join(waiting) or "nothing"})
    manager.ready("reloaded")

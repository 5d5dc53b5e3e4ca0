"""What the planner is told: this machine's variant and the peers, as they are now."""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from edgeagent.agent.experience import Experience
from edgeagent.core.cards import KV_TYPES, KvType
from edgeagent.core.config import ModelsConfig, PolicyConfig
from edgeagent.core.errors import PeerError, PeerRefusedError
from edgeagent.core.link import LinkEstimate
from edgeagent.core.plan import PlanKind, PlanQuery
from edgeagent.execution.local import LoadedFacts
from edgeagent.execution.peers import Peers, PeerView
from edgeagent.model.recipe import output_share
from edgeagent.model.resident import HeldHead, Resident
from edgeagent.resource.cost import LinkSpeeds, Speeds
from edgeagent.resource.options import HeadOption, LocalOption, Objective, PeerOption, Rules, Situation
from edgeagent.resource.sharing import Slowdown
from edgeagent.resource.split_candidates import Shape
from edgeagent.wire.messages import OfferedModel

log = logging.getLogger(__name__)

LINK_PROBE_S = 1.5
"""A link that cannot be measured in this time is not worth waiting for."""
NAMED_PLAN_S = 5.0
"""What a request that names a plan with a peer waits for one to be there and answer; nobody else waits so long."""
MEAN_JOB_TOKENS = 1000
"""Prompt tokens of the job that a queued request ahead of ours is taken for."""


class Surroundings:
    """Gathers the situation. `peers` is None without a broker."""

    def __init__(self, policy: PolicyConfig, models: ModelsConfig, peers: Peers | None) -> None:
        self._policy = policy
        self._models = models
        self.peers = peers
        self.experience = Experience()

    async def situation(self, resident: Resident, *, needs_peer: bool = False) -> Situation:
        """Measures links not seen yet first; a peer whose link cannot be measured is left out.

        `needs_peer`: the request names a plan that takes a peer, so one is waited for, and its link measured, longer.
        """
        own = await _local(resident)
        patience_s = NAMED_PLAN_S if needs_peer else LINK_PROBE_S
        if self.peers and needs_peer:
            await self.peers.wait_for_peer(patience_s)
        views = self.peers.views() if self.peers else []
        await asyncio.gather(*(self._measure(view, patience_s) for view in views if view.link.down_bytes_s is None))
        for view in views:
            if self.peers and view.link.down_bytes_s is not None:
                self.peers.refresh_link(view)
        options = [
            option
            for view in (self.peers.views() if self.peers else [])
            for model in view.status.models
            if (option := self._option(view, model, resident))
        ]
        return Situation(own, options, self._rules())

    @property
    def has_met_peers(self) -> bool:
        """Whether some peer was ever seen, also one that is gone now."""
        return self.peers is not None and self.peers.has_met_any

    async def has_lost_peers(self, resident: Resident) -> bool:
        """Whether peers had the rest of a model of which a head is here, and none is there now that could run it and
        has not failed a moment ago. Whoever else is there does not count."""
        peers, head = self.peers, resident.head
        if peers is None or head is None or not peers.has_met(resident.variant.sha256 or ""):
            return False
        exact_key = (await head.stage.facts()).exact_key
        return not any(
            self._completes(view, model, resident, head.k, exact_key)
            for view in peers.views()
            for model in view.status.models
        )

    def _completes(self, view: PeerView, model: OfferedModel, resident: Resident, k: int, exact_key: str) -> bool:
        """Whether that peer could run what is behind the first `k` layers."""
        assert self.peers is not None
        is_rest = (model.variant_sha256, model.exact_key) == (resident.variant.sha256, exact_key) and k in model.cuts
        is_there = not self.peers.is_broken(view)
        return is_rest and is_there and self.peers.may(view.status.id, PlanKind.SPLIT_DECODE, model.model)

    @property
    def objective(self) -> Objective:
        return self._policy.objective

    def _rules(self) -> Rules:
        return Rules(
            plans=frozenset(self._policy.plans),
            text_may_leave=self._policy.text_may_leave,
            lossy_wire=self._policy.lossy_wire,
            quality_floor=self._policy.quality_floor,
            latency_target_s=self._models.latency_target_s,
            # Without a limit of the owner's, what is loaded was granted its memory, whatever is free beside it now.
            memory_limit_bytes=self._models.memory_limit_bytes or None,
        )

    async def _measure(self, view: PeerView, patience_s: float) -> None:
        assert self.peers is not None
        if self.peers.is_broken(view):
            return
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(patience_s):
                    await self.peers.measure_link(view.status.id)
            except PeerError as error:
                log.warning("link to peer %s not measured: %s", view.status.id, error)
                if not isinstance(error, PeerRefusedError):
                    self.peers.trip(view.status.id)

    def _option(self, view: PeerView, model: OfferedModel, resident: Resident) -> PeerOption | None:
        assert self.peers is not None
        if (link := _link(view.link)) is None:
            return None
        is_same = model.variant_sha256 is not None and model.variant_sha256 == resident.variant.sha256
        quality = resident.variant.quality if is_same else None
        return PeerOption(
            peer=view.status.id,
            model=model.model,
            variant=model.variant,
            speeds=_peer_speeds(model, resident) if is_same else Speeds(model.prefill_tok_s, model.decode_tok_s),
            link=link,
            context_tokens=model.context_tokens,
            kv_bytes_per_token=model.kv_bytes_per_token,
            exact_key=model.exact_key,
            variant_sha256=model.variant_sha256 or "",
            queue_s=_queue_s(view, model),
            num_beside=min(view.status.queue, model.slots - 1),
            beside=[Slowdown(*each) for each in model.beside],
            quality=quality.perplexity if quality else None,
            is_broken=self.peers.is_broken(view),
            is_same_variant=is_same,
            is_served=model.variant_sha256 is None,
            cuts=model.cuts,
            final_hidden=model.final_hidden,
            most_between=model.most_between,
            loaded=frozenset(model.loaded),
            making_s=model.making_s,
            links={each.peer: LinkSpeeds(each.rtt_s, each.up_bytes_s, each.down_bytes_s) for each in view.status.links},
            barred=frozenset(p for p in PlanKind if not self.peers.may(view.status.id, p, model.model)),
            corrections=self.experience.factors(view.status.id, model, time.monotonic()),
        )


def _queue_s(view: PeerView, model: OfferedModel) -> float:
    """Until one of the slots is free. A peer predicts when all of its jobs will be done, and they are taken to end at
    even distances until then; of one that predicts nothing, those ahead who have no slot yet go first, one after the
    other in each."""
    num_waited_for = max(0, view.status.queue + 1 - model.slots)
    if num_waited_for and view.status.wait_s is not None:
        return view.status.wait_s * num_waited_for / view.status.queue
    return num_waited_for / model.slots * MEAN_JOB_TOKENS / model.prefill_tok_s


def imagined(query: PlanQuery, situation: Situation) -> Situation:
    """The situation with the link or the peer that a query supposes instead of the real ones."""
    if query.link_mbit_s is None and query.rtt_ms is None and query.peer_tok_s is None:
        return situation
    local = situation.local
    real = situation.peers or [_supposed_peer(local)]
    return replace(situation, peers=[_supposing(peer, query) for peer in real])


def _supposed_peer(local: LocalOption) -> PeerOption:
    """A peer with this machine's model, speed and build, on this machine's loopback."""
    return PeerOption(
        peer="supposed",
        model=local.model,
        variant=local.variant,
        speeds=local.speeds,
        link=LinkSpeeds(rtt_s=0.001, up_bytes_s=1e9, down_bytes_s=1e9),
        context_tokens=local.context_tokens,
        kv_bytes_per_token=local.kv_bytes_per_token,
        exact_key=local.exact_key,
        quality=local.quality,
        is_same_variant=True,
        cuts=(local.head.k,) if local.head else (),
        final_hidden=True,
    )


def _supposing(peer: PeerOption, query: PlanQuery) -> PeerOption:
    rtt_s = peer.link.rtt_s if query.rtt_ms is None else query.rtt_ms / 1e3
    down = peer.link.down_bytes_s if query.link_mbit_s is None else query.link_mbit_s * 125_000
    # Only the prefill rate is supposed; a peer is never supposed to decode faster than it was measured to.
    speeds = peer.speeds if query.peer_tok_s is None else replace(peer.speeds, prefill_tok_s=query.peer_tok_s)
    return replace(peer, link=LinkSpeeds(rtt_s, down, down), speeds=speeds)


def _link(estimate: LinkEstimate) -> LinkSpeeds | None:
    if estimate.rtt_s is None or estimate.down_bytes_s is None:
        return None
    # Until hidden states have gone up, the way up is taken to be as fast as the way down: for prompts, a few kilobytes,
    # that hardly matters.
    return LinkSpeeds(estimate.rtt_s, estimate.up_bytes_s or estimate.down_bytes_s, estimate.down_bytes_s)


def _exchangeable_bytes(resident: Resident, facts: LoadedFacts) -> int:
    """Bytes of cache a token when the engine's layout is the card's; else 0, and no cache is exchanged."""
    shape, settings = resident.card.architecture, resident.local.settings
    kv_type: KvType = next((kind for kind in KV_TYPES if kind == settings.kv_type), "f16")
    if shape is None or shape.kv_bytes_per_token(kv_type) != facts.kv_bytes_per_token:
        return 0
    return facts.kv_bytes_per_token


def _peer_speeds(model: OfferedModel, resident: Resident) -> Speeds:
    """A peer with the same variant is taken to be as much faster at attention as it is at all else."""
    here, (chunk_s, token_s) = resident.rates, resident.position_s
    there = here.model_copy(update={"prefill_tok_s": model.prefill_tok_s, "decode_tok_s": model.decode_tok_s})
    return Speeds.measured(
        there,
        chunk_s * here.prefill_tok_s / model.prefill_tok_s,
        token_s * here.decode_tok_s / model.decode_tok_s,
    )


async def _local(resident: Resident) -> LocalOption:
    if resident.head is not None:
        return await _held(resident, resident.head)
    facts = await resident.whole.facts()
    cell_bytes, chunk_tokens = _exchangeable_bytes(resident, facts), resident.local.settings.chunk_tokens
    return replace(
        _option_of(resident, facts.context_tokens, facts.exact_key),
        kv_bytes_per_token=cell_bytes,
        can_prune=facts.can_prune,
        num_vocab=facts.num_vocab,
        shape=Shape(facts.layers, facts.width, cell_bytes, chunk_tokens, _output_share(resident)),
    )


async def _held(resident: Resident, head: HeldHead) -> LocalOption:
    """Where only the first layers are here."""
    facts, cut = await head.stage.facts(), head.stage.cut
    return replace(
        _option_of(resident, facts.context_tokens, facts.exact_key),
        can_prune=False,
        num_vocab=facts.num_vocab,
        shape=Shape(cut.layers, facts.width, 0, head.stage.settings.chunk_tokens, _output_share(resident)),
        head=HeadOption(head.k, head.why),
    )


def _output_share(resident: Resident) -> float:
    return output_share(resident.card, resident.variant)


def _option_of(resident: Resident, context_tokens: int, exact_key: str) -> LocalOption:
    return LocalOption(
        model=resident.card.id,
        variant=resident.variant.name,
        speeds=Speeds.measured(resident.rates, *resident.position_s),
        context_tokens=context_tokens,
        memory_bytes=resident.memory_bytes,
        quality=resident.variant.quality.perplexity if resident.variant.quality else None,
        kv_bytes_per_token=0,
        exact_key=exact_key,
        draws=resident.output is not None,
        no_output=resident.no_output,
    )

"""One answer: drafts of the prompt, a plan, a run. Below the agent's loop, above model and executors."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from edgeagent.agent.ahead import ahead
from edgeagent.agent.drafting import (
    MIN_PRUNED_TOKENS,
    MIN_REDUCIBLE_TOKENS,
    Draft,
    Material,
    draft_pruned,
    draft_whole,
    shifted,
)
from edgeagent.agent.ladder import Ladder
from edgeagent.agent.running import Run, StandIn, nobody
from edgeagent.agent.short_text import short_text
from edgeagent.agent.situation import Surroundings, imagined
from edgeagent.agent.summing import sum_up
from edgeagent.agent.tally import Tally
from edgeagent.core.chat import ChatRequest, Message
from edgeagent.core.errors import ContextLengthError, DeadlineError, EdgeAgentError, ModelNotFoundError, NoPlanError
from edgeagent.core.events import Event, Finished, Planned, Reduced
from edgeagent.core.generation import Adapter
from edgeagent.core.memory import Embedder
from edgeagent.core.plan import (
    Candidate,
    Decision,
    Handover,
    MemoryReport,
    PlanKind,
    PlanQuery,
    Recalled,
    ReductionLevel,
)
from edgeagent.execution.admission import ANYONE, Claim, Urgency
from edgeagent.execution.executors import PATIENCE_S, PeerModel
from edgeagent.execution.peers import MOST_MAKING_S
from edgeagent.model.resident import Resident
from edgeagent.resource.cost import EXPECTED_TOKENS
from edgeagent.resource.options import Ask, PeerOption, PromptOption, Situation
from edgeagent.resource.planner import decide
from edgeagent.wire.messages import LEASE_S, Onward

ANSWER_ROOM = 512
"""Tokens of the context that a shifted conversation leaves to an answer without a limit of its own."""
LEAST_ANSWER = 16
"""Tokens of answer without which a conversation is rather shifted, where it may be and names no limit."""


async def adapter_of(request: ChatRequest, resident: Resident) -> Adapter | None:
    """The adapter that a request names. Raises ModelNotFoundError, which tells those of the card; ModelFileError."""
    if (name := request.edgeagent.adapter) is None:
        return None
    if request.model not in (None, resident.card.id):
        raise ModelNotFoundError(f"no file of {request.model} is here, and adapters are not asked of peers; pull it")
    return await asyncio.to_thread(resident.find_adapter, name)


class Answerer:
    """Answers with a resident model, alone or with a peer. `stand_in` goes on where that is a head without its peer."""

    def __init__(self, surroundings: Surroundings, embedder: Embedder, stand_in: StandIn = nobody) -> None:
        self._surroundings = surroundings
        self._embedder = embedder
        self._stand_in = stand_in

    def answer(
        self,
        request: ChatRequest,
        material: Material,
        resident: Resident,
        grammar: str | None,
        started_at: float,
        claim: Claim = ANYONE,
    ) -> AsyncGenerator[Event, None]:
        """Reduced, Planned, then Text and HandedOver, then Finished. Raises EdgeAgentError.

        They are made as fast as the engine or the peer can, however slowly they are read.
        """
        return ahead(self._answer(request, material, resident, grammar, started_at, claim), "answer")

    async def _answer(
        self,
        request: ChatRequest,
        material: Material,
        resident: Resident,
        grammar: str | None,
        started_at: float,
        claim: Claim,
    ) -> AsyncGenerator[Event, None]:
        adapter = await adapter_of(request, resident)
        if grammar is not None:
            request = request.model_copy(update={"sampling": request.sampling.model_copy(update={"grammar": grammar})})
        async with contextlib.AsyncExitStack() as stack:
            turns = stack.enter_context(resident.local.admission.turns(claim))
            try:
                tally = await self._plan(request, material, resident, started_at, adapter, await turns.take())
            except NoPlanError as error:
                other = await self._instead(stack, resident, adapter, error)
                turns = stack.enter_context(other.local.admission.turns(replace(claim, since_s=None)))
                tally = await self._plan(_for(other, request), material, other, started_at, None, await turns.take())
                tally.handovers.insert(0, _lost(resident, other, error))
                resident = other
            yield Reduced(tally.draft.report)
            yield Planned(tally.decision, requested=request.edgeagent.plan != "auto")
            run = Run(request, tally, resident, self._surroundings.peers, turns, self._stand_in, claim)
            async with contextlib.aclosing(run.events()) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        is_free = request.edgeagent.plan == "auto"
                        self._surroundings.experience.note(event, resident.card.id, time.monotonic(), is_free=is_free)
                    yield event

    async def _instead(
        self, stack: contextlib.AsyncExitStack, resident: Resident, adapter: Adapter | None, error: NoPlanError
    ) -> Resident:
        """A whole model, in use until the stack is closed, where a head has lost the peers that it once had.

        Raises the error for every other reason, and with another one where no model can stand in.
        """
        if adapter is not None or not await self._surroundings.has_lost_peers(resident):
            raise error
        await resident.unload()  # its memory may be what the other one needs
        try:
            return await stack.enter_async_context(self._stand_in(resident))
        except EdgeAgentError as lack:
            raise NoPlanError(f"{error}; and {lack}") from error

    async def complete(
        self,
        resident: Resident,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        grammar: str | None,
        claim: Claim = ANYONE,
    ) -> str:
        """A short greedy answer of the local model: the agent's decisions. Raises EngineError, and as a turn does."""
        async with resident.whole.lease(claim) as urgency:
            return await short_text(resident, messages, urgency, "decision", max_tokens=max_tokens, grammar=grammar)

    async def price(self, query: PlanQuery, resident: Resident) -> Decision:
        """What the planner would choose now for a request of that size. Raises NoPlanError, ContextLengthError."""
        ask = Ask(
            prompts=[PromptOption(ReductionLevel.L0, query.prompt_tokens)],
            max_tokens=query.max_tokens,
            expected_tokens=query.max_tokens,
            model=resident.card.id,
            objective=query.policy or self._surroundings.objective,
        )
        return decide(ask, imagined(query, await self._surroundings.situation(resident)))

    async def _plan(
        self,
        request: ChatRequest,
        material: Material,
        resident: Resident,
        started_at: float,
        adapter: Adapter | None,
        urgency: Urgency,
    ) -> Tally:
        needs_peer = request.edgeagent.plan not in ("auto", PlanKind.LOCAL)
        situation = await self._surroundings.situation(resident, needs_peer=needs_peer)
        spent_s = time.monotonic() - started_at
        choice = await self._chosen(request, material, resident, situation, spent_s, adapter, urgency)
        material, decision = choice.material, choice.decision
        recalled = tuple(Recalled(id=hit.item.id, score=hit.score) for hit in material.memories)
        draft = next(d for d in choice.drafts if d.level is decision.chosen.reduction)
        limit = _limit(request, draft, decision.chosen, situation)
        earlier = (ids for at, ids in sorted(material.earlier.items()) if at >= draft.num_questions_gone)
        return Tally(
            started_at=started_at,
            planned_at=time.monotonic(),
            decision=decision,
            draft=draft,
            memory=MemoryReport(recalled=recalled, earlier=tuple(id_ for ids in earlier for id_ in ids)),
            max_tokens=limit.tokens,
            seed=request.sampling.seed,
            target=_target(decision.chosen, situation, is_named=needs_peer),
            model=decision.chosen.model,
            variant=decision.chosen.variant,
            notes=[note for note in _notes(request, resident, decision) if note],
            handovers=choice.instead,
            limit_note=limit.note,
            adapter=adapter,
        )

    async def _chosen(
        self,
        request: ChatRequest,
        material: Material,
        resident: Resident,
        situation: Situation,
        spent_s: float,
        adapter: Adapter | None,
        urgency: Urgency,
    ) -> "_Choice":
        """Drafts and a decision on them; where nothing fits and it is allowed, of a shorter conversation.

        Raises NoPlanError, and ContextLengthError when even the newest question does not fit.
        """
        room = situation.local.context_tokens - (request.max_tokens or ANSWER_ROOM)
        least = request.max_tokens or LEAST_ANSWER
        drafts = await self._drafts(request, material, resident, urgency)
        while True:
            prompts = [await _option(draft, resident, adapter) for draft in drafts]
            ask = _ask(request, prompts, least, situation, self._surroundings, spent_s)
            try:
                return _Choice(material, drafts, *self._decide(ask, situation, spent_s))
            except ContextLengthError:
                may_shift = request.edgeagent.reduce is not ReductionLevel.L0
                if may_shift and (shorter := await shifted(material, resident.local, room, drafts)):
                    material, room = shorter, room * 3 // 4
                    drafts = await self._drafts(request, material, resident, urgency)
                elif request.max_tokens is None and least > 1:
                    least = 1
                else:
                    raise

    def _decide(self, ask: Ask, situation: Situation, spent_s: float) -> tuple[Decision, list[Handover]]:
        """The decision; when a named plan was lost with its peer, the best of the others, marked as a handover.

        Raises NoPlanError when no peer was ever there, or the request names an adapter or a reduction that no peer
        has: then the plan was not lost, it is not to be had; DeadlineError when there would be a plan, had the request
        not waited for `spent_s`.
        """
        try:
            return decide(ask, situation), []
        except NoPlanError as error:
            _check_wait(ask, situation, spent_s)
            is_local_only = ask.adapter is not None or ask.level is ReductionLevel.L5
            if ask.plan in (None, PlanKind.LOCAL) or is_local_only or not self._surroundings.has_met_peers:
                raise
            decision = decide(replace(ask, plan=None), situation)
            why = f"{error}; chosen instead: {decision.why}"
            chosen = decision.chosen.plan
            lost = Handover(at_token=0, from_=f"plan {ask.plan}", to=f"plan {chosen}", reason=str(error))
            return decision.model_copy(update={"why": why}), [lost]

    async def _drafts(
        self, request: ChatRequest, material: Material, resident: Resident, urgency: Urgency
    ) -> list[Draft]:
        whole = await draft_whole(material, resident.local)
        if request.edgeagent.reduce is ReductionLevel.L5:
            pruned = await draft_pruned(material, resident.local, whole)
            return [whole, pruned] if pruned else [whole]
        if request.edgeagent.reduce is ReductionLevel.L0:
            return [whole]
        write = partial(sum_up, material.said, material.cuts, resident, material.stored, urgency)
        ladder = Ladder(material, resident.local, self._embedder, whole, request.edgeagent.reduce, write)
        return [whole, *await ladder.drafts()]


def _for(other: Resident, request: ChatRequest) -> ChatRequest:
    """The request, to another model, which leaves the plan to the planner."""
    wish = request.edgeagent.model_copy(update={"plan": "auto", "adapter": None})
    return request.model_copy(update={"model": other.card.id, "edgeagent": wish})


def _lost(resident: Resident, other: Resident, error: NoPlanError) -> Handover:
    return Handover(
        at_token=0,
        from_=f"{resident.card.id}, of which a part is here",
        to=f"{other.card.id} {other.variant.name}",
        reason=f"{error}; another model answers",
    )


def _check_wait(ask: Ask, situation: Situation, spent_s: float) -> None:
    """Raises DeadlineError when it is the time spent waiting that leaves no plan."""
    if ask.deadline_s is None:
        return
    with contextlib.suppress(NoPlanError):
        decide(replace(ask, deadline_s=ask.deadline_s + spent_s), situation)
        left = f"{ask.deadline_s:g} s are left after {spent_s:.3g} s of waiting, too few for any plan"
        raise DeadlineError(f"{left}; allow more time, or ask less at once")


@dataclass(frozen=True, slots=True)
class _Choice:
    material: Material
    drafts: Sequence[Draft]
    decision: Decision
    instead: list[Handover]


@dataclass(frozen=True, slots=True)
class _Limit:
    """How long the answer may become, and what to tell when it does and the caller named no limit."""

    tokens: int
    note: str | None = None


def _notes(request: ChatRequest, resident: Resident, decision: Decision) -> tuple[str | None, ...]:
    return resident.local.template_note, _level_note(request, decision), _wire_note(decision.chosen)


def _wire_note(chosen: Candidate) -> str | None:
    """What to tell when hidden states travelled rounded."""
    if chosen.wire == "exact":
        return None
    told = f"hidden states travelled in {chosen.wire_bits} bits, as policy.lossy_wire allows"
    return f"{told}: a mean KL divergence of {chosen.wire_kl} nats from the exact wire, measured with SmolLM2-135M"


def _level_note(request: ChatRequest, decision: Decision) -> str | None:
    """What to tell when a reduction was asked for and there was nothing to reduce."""
    asked = request.edgeagent.reduce
    if asked in ("auto", ReductionLevel.L0) or decision.chosen.reduction is asked:
        return None
    if asked is ReductionLevel.L5:
        few = f"fewer than {MIN_PRUNED_TOKENS} positions stand outside of what is protected"
        return f"reduction L5 dropped nothing: {few}"
    old = " and the conversation has no old turns worth a summary" if asked is ReductionLevel.L4 else ""
    return f"reduction {asked} dropped nothing: the documents have fewer than {MIN_REDUCIBLE_TOKENS} tokens{old}"


def _limit(request: ChatRequest, draft: Draft, chosen: Candidate, situation: Situation) -> _Limit:
    """The asked limit; else all that the context leaves.

    A peer's other model counts the prompt in tokens of its own, so of its context only the usual room is asked for.
    """
    if request.max_tokens is not None:
        return _Limit(request.max_tokens)
    peer = _peer_of(chosen, situation)
    context = situation.local.context_tokens
    if peer is not None and peer.is_same_variant:
        context = min(context, peer.context_tokens)
    elif peer is not None:
        tokens = min(ANSWER_ROOM, peer.context_tokens - len(draft.tokens))
        return _Limit(tokens, f"the answer ends at {tokens} tokens, as no limit was named; name a higher one for more")
    return _Limit(context - len(draft.tokens), f"the answer ends where the context of {context} tokens is full")


async def _option(draft: Draft, resident: Resident, adapter: Adapter | None) -> PromptOption:
    warm = await resident.local.num_warm(draft.tokens, adapter.sha256 if adapter else "")
    dropped = draft.pruning.num_dropped if draft.pruning else 0
    return PromptOption(draft.level, len(draft.tokens), warm, pruned_tokens=dropped)


def _ask(
    request: ChatRequest,
    prompts: Sequence[PromptOption],
    least: int,
    situation: Situation,
    surroundings: Surroundings,
    spent_s: float,
) -> Ask:
    """`least` tokens of answer have to fit."""
    wish, local = request.edgeagent, situation.local
    level = None if wish.reduce == "auto" else wish.reduce
    widest = max([local.context_tokens, *(peer.context_tokens for peer in situation.peers)])
    left = max(least, widest - min(prompt.tokens for prompt in prompts))
    return Ask(
        prompts=prompts,
        max_tokens=least,
        expected_tokens=min(request.max_tokens or left, EXPECTED_TOKENS),
        plan=None if wish.plan == "auto" else wish.plan,
        # Too little text to shorten is not an error: the report says L0.
        level=level if any(prompt.level is level for prompt in prompts) else None,
        model=request.model or local.model,
        objective=wish.policy or surroundings.objective,
        deadline_s=None if wish.deadline_s is None else max(round(wish.deadline_s - spent_s, 2), 0.0),
        adapter=wish.adapter,
        has_penalties=request.sampling.has_penalties,
        has_grammar=request.sampling.grammar is not None,
        last=surroundings.experience.last(local.model),
    )


def _target(chosen: Candidate, situation: Situation, *, is_named: bool) -> PeerModel | None:
    """Where this machine could give the same answer, a peer is waited for as long as predicted, and a lease."""
    option = _peer_of(chosen, situation)
    if option is None:
        return None
    is_sooner_here = option.is_same_variant and situation.local.head is None and not is_named
    queues_s = [p.queue_s for p in situation.peers if p.peer in chosen.peers and p.model == chosen.model]
    making_s = min(chosen.making_s, MOST_MAKING_S)
    wait_s = (LEASE_S + sum(queues_s) if is_sooner_here else PATIENCE_S) + making_s
    num_vocab = situation.local.num_vocab if option.is_same_variant else None
    return PeerModel(
        option.peer, option.model, option.variant_sha256, option.exact_key, wait_s, num_vocab, _onward(chosen)
    )


def _onward(chosen: Candidate) -> Onward | None:
    """Whom the peer is to pass hidden states on to."""
    if len(chosen.peers) < 2:
        return None
    return Onward(peer=chosen.peers[1], k=chosen.stages[-1].begin)


def _peer_of(chosen: Candidate, situation: Situation) -> PeerOption | None:
    return next((p for p in situation.peers if (p.peer, p.model) == (chosen.peer, chosen.model)), None)

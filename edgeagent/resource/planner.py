"""The planner: every way to run a request, its price, what rules it out, and which one wins and why. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgeagent.core.errors import ContextLengthError, NoPlanError
from edgeagent.core.plan import Candidate, Decision, PlanKind, ReductionLevel
from edgeagent.core.stages import HIDDEN_TYPES, WIRE_BITS, WIRE_KL, HiddenType
from edgeagent.resource.corrections import Factors
from edgeagent.resource.cost import Price, Work, price_local, price_prefill, price_remote
from edgeagent.resource.options import (
    Ask,
    Choice,
    HeadOption,
    LocalOption,
    Objective,
    PeerOption,
    PromptOption,
    Rules,
    Situation,
)
from edgeagent.resource.sharing import speeds_of_stage
from edgeagent.resource.split_candidates import Ways, priced

HYSTERESIS = 0.05
"""A plan that needs a peer must be predicted to save at least this part of the local time: predictions err."""

LOSSY_MARGIN = 0.05
"""As much must a lossy wire save of an exact one's time."""
STAY = 0.03
"""What the request before chose is chosen again unless another plan is predicted to save more than this part: between
near-equal plans each change costs something that is in no prediction (a tail to load, a cache elsewhere)."""

TOO_LONG = "fit the context"
ONLY_ASKED = ReductionLevel.L5
"""Chosen for nobody who did not ask for it: what it says is another answer, not the same one sooner."""

OTHER_BITS = "the peer's build, settings or instruction set differ: not the same bits"
NO_LAYOUT = "this variant's cache layout cannot be exchanged"
PENALTIES = "penalties look at the prompt, which the peer that draws does not see"
UNCORRECTED = Factors()


def decide(ask: Ask, situation: Situation) -> Decision:
    """Price everything, reject what may not be, pick the best. Raises NoPlanError with the reasons if nothing is left.

    A named plan or level is obeyed; the decision then also says what would have been chosen without it.
    """
    candidates = enumerate_candidates(ask, situation)
    free = [c for c in candidates if c.rejected is None]
    wanted = [c for c in free if _is_wanted(c, ask)]
    if not wanted:
        raise _nothing_left(ask, candidates)
    chosen = _best(wanted, ask, situation.rules)
    return Decision(chosen=chosen, why=_why(chosen, free, ask, situation.rules), candidates=tuple(candidates))


def enumerate_candidates(ask: Ask, situation: Situation) -> list[Candidate]:
    """The whole table, the rejected ones with their reasons."""
    made: list[Candidate] = []
    for prompt in ask.prompts:
        made.append(_local(ask, prompt, situation))
        for peer in situation.peers:
            made.append(_remote(ask, prompt, peer, situation))
            if peer.is_same_variant:
                made.append(_prefill(ask, prompt, peer, situation))
                made += _splits(ask, prompt, peer, situation)
    return made


def _local(ask: Ask, prompt: PromptOption, situation: Situation) -> Candidate:
    local = situation.local
    price = price_local(_work(ask, prompt), local.speeds)
    candidate = _candidate(PlanKind.LOCAL, prompt, price, local.model, local.variant, quality=local.quality)
    candidate = candidate.model_copy(update={"memory_bytes": local.memory_bytes, "warm_tokens": prompt.reused_tokens})
    if local.head is not None:
        return _rejected(candidate, _only_head(local.head))
    if prompt.pruned_tokens and not local.can_prune:
        return _rejected(candidate, "this model's cache has a sliding window, and its positions cannot be dropped")
    return _judged(candidate, ask, prompt, situation.rules, local.context_tokens)


def _remote(ask: Ask, prompt: PromptOption, peer: PeerOption, situation: Situation) -> Candidate:
    work = Work(prompt.tokens, ask.expected_tokens)
    price = price_remote(work, peer.own_speeds, peer.link, peer.queue_s)
    candidate = _candidate(PlanKind.REMOTE, prompt, price, peer.model, peer.variant, peer=peer, quality=peer.quality)
    return _judged(candidate, ask, prompt, situation.rules, peer.context_tokens, peer)


def _prefill(ask: Ask, prompt: PromptOption, peer: PeerOption, situation: Situation) -> Candidate:
    local = situation.local
    cell_bytes = max(1, local.kv_bytes_per_token)
    price = price_prefill(_work(ask, prompt), local.speeds, peer.own_speeds, peer.link, peer.queue_s, cell_bytes)
    candidate = _candidate(
        PlanKind.PREFILL, prompt, price, local.model, local.variant, peer=peer, quality=local.quality
    )
    candidate = candidate.model_copy(update={"memory_bytes": local.memory_bytes, "warm_tokens": prompt.reused_tokens})
    context = min(local.context_tokens, peer.context_tokens)
    return _judged(candidate, ask, prompt, situation.rules, context, peer, _prefill_fault(local, peer))


def _prefill_fault(local: LocalOption, peer: PeerOption) -> str | None:
    """What speaks against caches that meet; None: nothing."""
    if local.head is not None:
        return _only_head(local.head)
    if local.kv_bytes_per_token == 0:
        return NO_LAYOUT
    return None if local.exact_key == peer.exact_key else OTHER_BITS


def _splits(ask: Ask, prompt: PromptOption, peer: PeerOption, situation: Situation) -> Iterator[Candidate]:
    local = situation.local
    if local.shape is None:
        return
    context, rules = min(local.context_tokens, peer.context_tokens), situation.rules
    work = Work(prompt.tokens, ask.expected_tokens)
    ways = Ways(
        (local.head.k,) if local.head else peer.cuts,
        HIDDEN_TYPES if rules.lossy_wire else HIDDEN_TYPES[:1],
        final_hidden=not rules.text_may_leave,
    )
    there = speeds_of_stage(peer.speeds, peer.num_beside)
    for plan, k, hidden, price in priced(work, local.speeds, there, peer.link, peer.queue_s, local.shape, ways):
        candidate = _candidate(plan, prompt, price, local.model, local.variant, peer=peer, quality=local.quality)
        facts = {"memory_bytes": local.memory_bytes, "k": k, **_wire(hidden)}
        candidate = candidate.model_copy(update=facts)
        fault = _split_fault(candidate, ask, local, peer, rules)
        yield _judged(candidate, ask, prompt, rules, context, peer, fault)


def _wire(hidden: HiddenType) -> dict[str, object]:
    kl = WIRE_KL.get(hidden)
    return {"wire_bits": WIRE_BITS[hidden], "wire": "exact" if kl is None else "lossy", "wire_kl": kl}


def _split_fault(candidate: Candidate, ask: Ask, local: LocalOption, peer: PeerOption, rules: Rules) -> str | None:
    """What speaks against splitting the model like that; None: nothing."""
    if local.exact_key != peer.exact_key:
        return OTHER_BITS
    if candidate.k not in peer.cuts:
        return f"the peer runs no layers from {candidate.k} on"
    if candidate.plan is PlanKind.SPLIT_PREFILL:
        if local.head is not None:
            return _only_head(local.head)
        return None if local.shape and local.shape.cell_bytes else NO_LAYOUT
    if rules.text_may_leave:
        return PENALTIES if ask.has_penalties else None
    if not local.draws:
        told = "the peer would see the answer's tokens, and the policy keeps text here"
        return f"{told}; {local.no_output or f'hold its output head, too, to draw them here ({_cut_output(local)})'}"
    return None if peer.final_hidden else "the peer cannot give hidden states to draw from; update it"


def _cut_output(local: LocalOption) -> str:
    layers = local.shape.layers if local.shape else 0
    return f"edgeagent models slice {local.model} --layers {layers}:{layers} --variant {local.variant}"


def _only_head(head: HeadOption) -> str:
    return f"only the first {head.k} layers are here: {head.why}"


def _work(ask: Ask, prompt: PromptOption) -> Work:
    return Work(prompt.tokens, ask.expected_tokens, prompt.reused_tokens, prompt.pruned_tokens)


def _candidate(
    plan: PlanKind,
    prompt: PromptOption,
    price: Price,
    model: str,
    variant: str,
    *,
    peer: PeerOption | None = None,
    quality: float | None = None,
) -> Candidate:
    factors = peer.corrections.get(plan, UNCORRECTED) if peer else UNCORRECTED
    price = factors.applied(price)
    return Candidate(
        plan=plan,
        peer=peer.peer if peer else None,
        model=model,
        variant=variant,
        reduction=prompt.level,
        ttft_s=price.ttft_s,
        tpot_s=price.tpot_s,
        total_s=price.total_s,
        up_bytes=price.up_bytes,
        down_bytes=price.down_bytes,
        quality=quality,
        correction=(factors.first, factors.rest),
    )


def _judged(
    candidate: Candidate,
    ask: Ask,
    prompt: PromptOption,
    rules: Rules,
    context_tokens: int,
    peer: PeerOption | None = None,
    fault: str | None = None,
) -> Candidate:
    """The candidate, with the first rule that it breaks, or else the `fault` that its plan has with this peer."""
    needed = prompt.tokens + ask.max_tokens
    limit, floor = rules.memory_limit_bytes, rules.quality_floor
    checks: list[tuple[bool, str]] = [
        (ask.model not in (None, candidate.model), f"model '{ask.model}' was asked for"),
        (candidate.plan not in rules.plans, "the policy does not allow this plan"),
        *(_peer_checks(candidate, ask, prompt, rules, peer) if peer else ()),
        (needed > context_tokens, f"{needed} tokens with the answer, where {context_tokens} {TOO_LONG}"),
        (
            limit is not None and candidate.memory_bytes > limit,
            f"it needs {candidate.memory_bytes / 1e6:,.0f} MB of memory and may use {(limit or 0) / 1e6:,.0f} MB",
        ),
        (
            floor is not None and (candidate.quality is None or candidate.quality > floor),
            f"its perplexity is not known to be below {floor}",
        ),
        (
            ask.deadline_s is not None and candidate.total_s > ask.deadline_s,
            f"it would take longer than {ask.deadline_s} s",
        ),
        (fault is not None, fault or ""),
    ]
    return next((_rejected(candidate, reason) for broken, reason in checks if broken), candidate)


def _peer_checks(
    candidate: Candidate, ask: Ask, prompt: PromptOption, rules: Rules, peer: PeerOption
) -> list[tuple[bool, str]]:
    return [
        (not rules.text_may_leave and not candidate.plan.is_split, "the policy keeps text on this machine"),
        (ask.adapter is not None, f"the adapter '{ask.adapter}' is on this machine only"),
        (prompt.pruned_tokens > 0, "positions are dropped from this machine's own cache only"),
        (candidate.plan in peer.barred, "no credential allows that with this peer"),
        (peer.is_broken, "this peer failed a moment ago"),
        (peer.is_served and ask.has_grammar, "the server behind this peer takes no grammar"),
    ]


def _rejected(candidate: Candidate, reason: str) -> Candidate:
    return candidate.model_copy(update={"rejected": reason})


def _is_wanted(candidate: Candidate, ask: Ask) -> bool:
    return ask.plan in (None, candidate.plan) and (
        candidate.reduction is ask.level or (ask.level is None and candidate.reduction is not ONLY_ASKED)
    )


def _best(candidates: Sequence[Candidate], ask: Ask, rules: Rules) -> Candidate:
    """The mildest reduction that meets the latency target, then the objective; the fastest if nothing meets it."""
    in_time = [c for c in candidates if c.ttft_s <= rules.latency_target_s]
    mildest = min((c.reduction for c in in_time), default=None)
    pool = [c for c in in_time if c.reduction == mildest] or candidates
    best = min(pool, key=lambda c: _score(c, ask.objective))
    kept = next((c for c in pool if Choice.of(c) == ask.last), best)
    return kept if _is_near(_score(kept, ask.objective), _score(best, ask.objective)) else best


def _is_near(score: tuple[float, ...], best: tuple[float, ...]) -> bool:
    """Whether only time, or what stands for it, tells them apart, and not by much."""
    return score[:-1] == best[:-1] and score[-1] <= best[-1] * (1 + STAY)


def _score(candidate: Candidate, objective: Objective) -> tuple[float, ...]:
    margin = HYSTERESIS * (candidate.peer is not None) + LOSSY_MARGIN * (candidate.wire == "lossy")
    seconds = candidate.total_s * (1 + margin)
    if objective == "quality":
        return (candidate.quality if candidate.quality is not None else float("inf"), seconds)
    if objective == "energy":
        # Without a power sensor, time this machine computes stands for energy; a remote plan mostly waits.
        return (candidate.energy_j if candidate.energy_j is not None else seconds,)
    return (seconds,)


def _nothing_left(ask: Ask, candidates: Sequence[Candidate]) -> NoPlanError | ContextLengthError:
    wanted = [c for c in candidates if _is_wanted(c, ask)]
    what = f"plan '{ask.plan}'" if ask.plan else "any plan"
    if not wanted:
        return NoPlanError(f"{what} is not possible: no peer offers it; start a peer or leave the plan to the planner")
    reasons = dict.fromkeys(f"{c.plan} {c.reduction}: {c.rejected}" for c in wanted)
    here = [c for c in wanted if c.plan is PlanKind.LOCAL] or wanted
    if all(c.rejected and c.rejected.endswith(TOO_LONG) for c in here):
        return ContextLengthError(f"{'; '.join(reasons)}: shorten the prompt or ask for fewer tokens")
    return NoPlanError(f"{what} is not possible ({'; '.join(reasons)}); change the request or the policy")


def _why(chosen: Candidate, free: Sequence[Candidate], ask: Ask, rules: Rules) -> str:
    own = _best([c for c in free if c.reduction is not ONLY_ASKED] or free, ask, rules)
    requested = [f"plan {ask.plan}"] * (ask.plan is not None) + [f"reduction {ask.level}"] * (ask.level is not None)
    reason = f"{_name(own)}: {_reason(own, free, rules)}{_kept(own, free, ask, rules)}"
    if not requested:
        return reason
    if own == chosen:
        return f"{' and '.join(requested)} was requested, and the planner would have chosen the same, {reason}"
    return f"{' and '.join(requested)} was requested; the planner by itself would have chosen {reason}"


def _kept(own: Candidate, free: Sequence[Candidate], ask: Ask, rules: Rules) -> str:
    """What to say when the request before decided."""
    fastest = _best([c for c in free if c.reduction is not ONLY_ASKED] or free, replace(ask, last=None), rules)
    return "" if own == fastest else f"; as the request before, since {_name(fastest)} would save too little to change"


def _name(candidate: Candidate) -> str:
    where = f" with peer {candidate.peer}" if candidate.peer else ""
    reduced = "" if candidate.reduction is ReductionLevel.L0 else f" after reduction {candidate.reduction}"
    return f"{candidate.plan}{where}{reduced}"


def _reason(chosen: Candidate, free: Sequence[Candidate], rules: Rules) -> str:
    parts = [f"first token in {_seconds(chosen.ttft_s)}, all in {_seconds(chosen.total_s)}"]
    if chosen.warm_tokens:
        parts.append(f"with {chosen.warm_tokens} prompt tokens already in the cache")
    plans = [c for c in free if c.reduction == chosen.reduction and (c.plan, c.peer) != (chosen.plan, chosen.peer)]
    if plans:
        next_best = min(plans, key=lambda c: c.total_s)
        parts.append(f"against {_seconds(next_best.total_s)} for {_name(next_best)}")
    if milder := [c for c in free if c.reduction < chosen.reduction]:
        fastest = min(milder, key=lambda c: c.ttft_s)
        parts.append(
            f"while {fastest.reduction} would take {_seconds(fastest.ttft_s)} to the first token,"
            f" over the target of {_seconds(rules.latency_target_s)}"
        )
    return ", ".join(parts)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"

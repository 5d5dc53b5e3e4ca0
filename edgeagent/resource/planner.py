"""The planner: every way to run a request, its price, what rules it out, and which one wins and why. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from edgeagent.core.errors import ContextLengthError, NoPlanError
from edgeagent.core.plan import Candidate, Decision, PlanKind, ReductionLevel
from edgeagent.resource.cost import Work, price_local, price_prefill, price_remote
from edgeagent.resource.judging import (
    NO_LAYOUT,
    OTHER_BITS,
    TOO_LONG,
    candidate_of,
    judged,
    only_head,
    rejected,
    work_of,
)
from edgeagent.resource.options import Ask, Choice, LocalOption, Objective, PeerOption, PromptOption, Rules, Situation
from edgeagent.resource.split_plans import chains, splits

HYSTERESIS = 0.05
"""A plan must be predicted to save this part of the local time for each peer that it needs: predictions err."""

LOSSY_MARGIN = 0.05
"""As much must a lossy wire save of an exact one's time."""
STAY = 0.03
"""What the request before chose is chosen again unless another plan is predicted to save more than this part: between
near-equal plans each change costs something that is in no prediction (a tail to load, a cache elsewhere)."""

ONLY_ASKED = ReductionLevel.L5
"""Chosen for nobody who did not ask for it: what it says is another answer, not the same one sooner."""


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
                made += splits(ask, prompt, peer, situation)
                made += chains(ask, prompt, peer, situation)
    return made


def _local(ask: Ask, prompt: PromptOption, situation: Situation) -> Candidate:
    local = situation.local
    price = price_local(work_of(ask, prompt), local.speeds)
    candidate = candidate_of(PlanKind.LOCAL, prompt, price, local.model, local.variant, quality=local.quality)
    candidate = candidate.model_copy(update={"memory_bytes": local.memory_bytes, "warm_tokens": prompt.reused_tokens})
    if local.head is not None:
        return rejected(candidate, only_head(local.head))
    if prompt.pruned_tokens and not local.can_prune:
        return rejected(candidate, "this model's cache has a sliding window, and its positions cannot be dropped")
    return judged(candidate, ask, prompt, situation.rules, local.context_tokens)


def _remote(ask: Ask, prompt: PromptOption, peer: PeerOption, situation: Situation) -> Candidate:
    work = Work(prompt.tokens, ask.expected_tokens)
    price = price_remote(work, peer.own_speeds, peer.link, peer.queue_s)
    candidate = candidate_of(PlanKind.REMOTE, prompt, price, peer.model, peer.variant, peer=peer, quality=peer.quality)
    return judged(candidate, ask, prompt, situation.rules, peer.context_tokens, peer)


def _prefill(ask: Ask, prompt: PromptOption, peer: PeerOption, situation: Situation) -> Candidate:
    local = situation.local
    cell_bytes = max(1, local.kv_bytes_per_token)
    price = price_prefill(work_of(ask, prompt), local.speeds, peer.own_speeds, peer.link, peer.queue_s, cell_bytes)
    candidate = candidate_of(
        PlanKind.PREFILL, prompt, price, local.model, local.variant, peer=peer, quality=local.quality
    )
    candidate = candidate.model_copy(update={"memory_bytes": local.memory_bytes, "warm_tokens": prompt.reused_tokens})
    context = min(local.context_tokens, peer.context_tokens)
    return judged(candidate, ask, prompt, situation.rules, context, peer, _prefill_fault(local, peer))


def _prefill_fault(local: LocalOption, peer: PeerOption) -> str | None:
    """What speaks against caches that meet; None: nothing."""
    if local.head is not None:
        return only_head(local.head)
    if local.kv_bytes_per_token == 0:
        return NO_LAYOUT
    return None if local.exact_key == peer.exact_key else OTHER_BITS


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
    margin = HYSTERESIS * len(candidate.peers) + LOSSY_MARGIN * (candidate.wire == "lossy")
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
    where = f" with peer {' and peer '.join(candidate.peers)}" if candidate.peers else ""
    reduced = "" if candidate.reduction is ReductionLevel.L0 else f" after reduction {candidate.reduction}"
    return f"{candidate.plan}{where}{reduced}"


def _reason(chosen: Candidate, free: Sequence[Candidate], rules: Rules) -> str:
    parts = [f"first token in {_seconds(chosen.ttft_s)}, all in {_seconds(chosen.total_s)}"]
    if chosen.warm_tokens:
        parts.append(f"with {chosen.warm_tokens} prompt tokens already in the cache")
    if chosen.making_s:
        parts.append(f"with {_seconds(chosen.making_s)} for the peer to make its layers ready")
    if len(chosen.peers) > 1:
        parts.append(f"layers {', '.join(map(str, chosen.stages))}")
    plans = [c for c in free if c.reduction == chosen.reduction and (c.plan, c.peers) != (chosen.plan, chosen.peers)]
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

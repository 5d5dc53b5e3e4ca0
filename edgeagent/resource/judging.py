"""A plan's row of the planner's table: its price, and the first rule that it breaks. Pure."""

from edgeagent.core.plan import Candidate, PlanKind
from edgeagent.resource.corrections import Factors
from edgeagent.resource.cost import Price, Work
from edgeagent.resource.options import Ask, HeadOption, PeerOption, PromptOption, Rules

TOO_LONG = "fit the context"
OTHER_BITS = "the peer's build, settings or instruction set differ: not the same bits"
NO_LAYOUT = "this variant's cache layout cannot be exchanged"
UNCORRECTED = Factors()


def only_head(head: HeadOption) -> str:
    return f"only the first {head.k} layers are here: {head.why}"


def work_of(ask: Ask, prompt: PromptOption) -> Work:
    return Work(prompt.tokens, ask.expected_tokens, prompt.reused_tokens, prompt.pruned_tokens)


def candidate_of(
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


def judged(
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
    return next((rejected(candidate, reason) for broken, reason in checks if broken), candidate)


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


def rejected(candidate: Candidate, reason: str) -> Candidate:
    return candidate.model_copy(update={"rejected": reason})

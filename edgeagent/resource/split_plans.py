"""The split plans' rows of the planner's table: with one peer, or with two, one behind the other. Pure."""

from collections.abc import Iterator

from edgeagent.core.plan import Candidate, Held, PlanKind
from edgeagent.core.stages import HIDDEN_TYPES, WIRE_BITS, WIRE_KL, HiddenType
from edgeagent.resource.chain_candidates import Chain, chained
from edgeagent.resource.cost import Work
from edgeagent.resource.judging import NO_LAYOUT, OTHER_BITS, candidate_of, judged, only_head
from edgeagent.resource.options import Ask, LocalOption, PeerOption, PromptOption, Rules, Situation
from edgeagent.resource.sharing import speeds_of_stage
from edgeagent.resource.split_candidates import Ways, priced

PENALTIES = "penalties look at the prompt, which the peer that draws does not see"


def splits(ask: Ask, prompt: PromptOption, peer: PeerOption, situation: Situation) -> Iterator[Candidate]:
    """Both split plans with this peer, at some of the cuts and with each type of hidden states that may be."""
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
    there, layers = speeds_of_stage(peer.speeds, peer.num_beside), local.shape.layers

    def begin_s(k: int) -> float:
        return peer.queue_s + peer.making_of(k, layers)

    for plan, k, hidden, price in priced(work, local.speeds, there, peer.link, begin_s, local.shape, ways):
        candidate = candidate_of(plan, prompt, price, local.model, local.variant, peer=peer, quality=local.quality)
        stages = (Held(begin=0, end=k), Held(peer=peer.peer, begin=k, end=layers))
        making_s = peer.making_of(k, layers)
        facts = {"memory_bytes": local.memory_bytes, "k": k, "stages": stages, "making_s": making_s, **_wire(hidden)}
        candidate = candidate.model_copy(update=facts)
        fault = _split_fault(candidate, ask, local, peer, rules)
        yield judged(candidate, ask, prompt, rules, context, peer, fault)


def chains(ask: Ask, prompt: PromptOption, first: PeerOption, situation: Situation) -> Iterator[Candidate]:
    """`split-decode` with another peer behind this one. Exact alone: what rounding twice does was not measured."""
    local, rules = situation.local, situation.rules
    work = Work(prompt.tokens, ask.expected_tokens)
    for second in situation.peers:
        if local.shape is None or second.peer == first.peer or not second.is_same_variant:
            continue
        chain = chained(work, local, first, second, final_hidden=not rules.text_may_leave)
        if chain is None:
            continue
        k, m = chain.cuts
        stages = (
            Held(begin=0, end=k),
            Held(peer=first.peer, begin=k, end=m),
            Held(peer=second.peer, begin=m, end=local.shape.layers),
        )
        candidate = candidate_of(
            PlanKind.SPLIT_DECODE, prompt, chain.price, local.model, local.variant, peer=first, quality=local.quality
        )
        facts = {
            "memory_bytes": local.memory_bytes,
            "k": k,
            "stages": stages,
            "making_s": chain.making_s,
            **_wire("f32"),
        }
        candidate = candidate.model_copy(update=facts)
        fault = _chain_fault(chain, ask, local, (first, second), rules)
        context = min(local.context_tokens, first.context_tokens, second.context_tokens)
        for peer in (second, first):
            candidate = judged(candidate, ask, prompt, rules, context, peer, fault)
        yield candidate


def _chain_fault(
    chain: Chain, ask: Ask, local: LocalOption, peers: tuple[PeerOption, PeerOption], rules: Rules
) -> str | None:
    """What speaks against such a chain; None: nothing."""
    if any(peer.exact_key != local.exact_key for peer in peers):
        return OTHER_BITS
    if fault := _draw_fault(ask, local, peers[-1], rules):
        return fault
    slowing = [peer.peer for i, peer in enumerate(peers, 1) if i not in chain.best]
    return f"{' and '.join(slowing)} would slow it, and so gets no layers" if slowing else None


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
            return only_head(local.head)
        return None if local.shape and local.shape.cell_bytes else NO_LAYOUT
    return _draw_fault(ask, local, peer, rules)


def _draw_fault(ask: Ask, local: LocalOption, peer: PeerOption, rules: Rules) -> str | None:
    """What speaks against draws behind the layers of that peer, of tokens there or of hidden states here."""
    if rules.text_may_leave:
        return PENALTIES if ask.has_penalties else None
    if not local.draws:
        told = "the peer would see the answer's tokens, and the policy keeps text here"
        return f"{told}; {local.no_output or f'hold its output head, too, to draw them here ({_cut_output(local)})'}"
    return None if peer.final_hidden else "the peer cannot give hidden states to draw from; update it"


def _cut_output(local: LocalOption) -> str:
    layers = local.shape.layers if local.shape else 0
    return f"edgeagent models slice {local.model} --layers {layers}:{layers} --variant {local.variant}"

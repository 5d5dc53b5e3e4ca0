"""What answers taught: how far predictions of each plan with each peer were off, and how the newest request was run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeagent.core.events import Finished
from edgeagent.core.plan import AnswerReport, Candidate, PlanKind
from edgeagent.resource.corrections import Correction, Factors, Sample
from edgeagent.resource.options import Choice
from edgeagent.wire.messages import OfferedModel

MAX_KNOWN = 1024
"""Models on peers that are remembered: anybody can say that he is a peer."""

_Whom = tuple[str, str, str]
"""Peer, model, variant."""


@dataclass(slots=True)
class _Known:
    """What is known of a model on a peer, for as long as it offers these rates."""

    rates: tuple[float, float]
    corrections: dict[PlanKind, Correction] = field(default_factory=dict)
    begun: set[tuple[PlanKind, int]] = field(default_factory=set)
    """Cuts for which the peer has made and loaded a tail."""


class Experience:
    """Times are seconds of one clock, given by whoever asks or tells."""

    def __init__(self) -> None:
        self._known: dict[_Whom, _Known] = {}
        self._last: dict[str, Choice] = {}

    def factors(self, peer: str, model: OfferedModel, now_s: float) -> Mapping[PlanKind, Factors]:
        """What predictions with this peer's model are to be multiplied by. Forgotten when it offers other rates."""
        whom, rates = (peer, model.model, model.variant), (model.prefill_tok_s, model.decode_tok_s)
        known = self._known.get(whom)
        if known is None or known.rates != rates:
            known = self._begin(whom, rates)
        return {plan: each.factors(now_s) for plan, each in known.corrections.items()}

    def last(self, model: str) -> Choice | None:
        """Which way the newest request to this machine's `model` went that named none."""
        return self._last.get(model)

    def note(self, finished: Finished, model: str, now_s: float, *, is_free: bool) -> None:
        """An answer to a request to `model` is over, which left the plan open if it `is_free`.

        One that was not made as planned, or by another peer that claimed the job, tells nothing of the plan.
        """
        report = finished.report
        if report.decision is None or report.cascade or report.handover:
            return
        chosen = report.decision.chosen
        if report.peer != chosen.peer:
            return
        if is_free:
            self._last[model] = Choice.of(chosen)
        known = self._known.get(_whom(chosen))
        if known and len(chosen.peers) == 1 and not _is_beginning(known, chosen):
            _correct(known, chosen, report, finished.usage.completion_tokens, now_s)

    def _begin(self, whom: _Whom, rates: tuple[float, float]) -> _Known:
        """Whom it knows nothing of, any more; in the place of the one known for longest when there are too many."""
        self._known.pop(whom, None)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        known = self._known[whom] = _Known(rates)
        return known


def _is_beginning(known: _Known, chosen: Candidate) -> bool:
    """Whether the peer has cut and loaded a tail for it: that is no part of the prediction, and comes once."""
    if chosen.k is None or (chosen.plan, chosen.k) in known.begun:
        return False
    known.begun.add((chosen.plan, chosen.k))
    return True


def _correct(known: _Known, chosen: Candidate, report: AnswerReport, num_tokens: int, now_s: float) -> None:
    measured, before = report.measured, known.corrections.get(chosen.plan, Correction(now_s))
    sample = Sample.of(
        (measured.ttft_s, measured.tpot_s), (chosen.ttft_s, chosen.tpot_s), Factors(*chosen.correction), num_tokens
    )
    known.corrections[chosen.plan] = before.with_sample(sample, now_s)


def _whom(chosen: Candidate) -> _Whom:
    return chosen.peer or "", chosen.model, chosen.variant

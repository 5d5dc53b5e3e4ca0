"""What answers taught: how far predictions of each plan with each peer were off, and how the newest request was run."""

from collections.abc import Mapping

from edgeagent.core.events import Finished
from edgeagent.core.plan import AnswerReport, Candidate, PlanKind
from edgeagent.resource.corrections import Correction, Factors, Sample
from edgeagent.resource.options import Choice
from edgeagent.wire.messages import OfferedModel

MAX_KNOWN = 1024
"""Models on peers that are remembered: anybody can say that he is a peer."""

_Whom = tuple[str, str, str]
"""Peer, model, variant."""


class Experience:
    """Times are seconds of one clock, given by whoever asks or tells."""

    def __init__(self) -> None:
        self._rates: dict[_Whom, tuple[float, float]] = {}
        self._corrections: dict[_Whom, dict[PlanKind, Correction]] = {}
        self._begun: set[tuple[_Whom, PlanKind, int]] = set()
        self._last: dict[str, Choice] = {}

    def factors(self, peer: str, model: OfferedModel, now_s: float) -> Mapping[PlanKind, Factors]:
        """What predictions with this peer's model are to be multiplied by. Forgotten when it offers other rates."""
        whom, rates = (peer, model.model, model.variant), (model.prefill_tok_s, model.decode_tok_s)
        if self._rates.get(whom) != rates:
            self._forget(whom)
            self._rates[whom] = rates
        return {plan: each.factors(now_s) for plan, each in self._corrections.get(whom, {}).items()}

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
        if len(chosen.peers) == 1 and not self._is_beginning(chosen):
            self._correct(chosen, report, finished.usage.completion_tokens, now_s)

    def _is_beginning(self, chosen: Candidate) -> bool:
        """Whether the peer has cut and loaded a tail for it: that is no part of the prediction, and comes once."""
        if chosen.k is None:
            return False
        key = _whom(chosen), chosen.plan, chosen.k
        is_known = key in self._begun
        self._begun.add(key)
        return not is_known

    def _correct(self, chosen: Candidate, report: AnswerReport, num_tokens: int, now_s: float) -> None:
        whom, measured = _whom(chosen), report.measured
        if whom not in self._rates:
            return
        before = self._corrections.setdefault(whom, {}).get(chosen.plan, Correction(now_s))
        sample = Sample.of(
            (measured.ttft_s, measured.tpot_s), (chosen.ttft_s, chosen.tpot_s), Factors(*chosen.correction), num_tokens
        )
        self._corrections[whom][chosen.plan] = before.with_sample(sample, now_s)

    def _forget(self, whom: _Whom) -> None:
        self._corrections.pop(whom, None)
        self._begun = {each for each in self._begun if each[0] != whom}
        if len(self._rates) >= MAX_KNOWN:
            oldest = next(iter(self._rates))
            del self._rates[oldest]
            self._corrections.pop(oldest, None)


def _whom(chosen: Candidate) -> _Whom:
    return chosen.peer or "", chosen.model, chosen.variant

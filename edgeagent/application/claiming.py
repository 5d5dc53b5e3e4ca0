"""The peer's answers to offered jobs: it claims what it could do now, and says until when; refuses the rest at once."""

import logging
from collections import OrderedDict
from collections.abc import Mapping

from edgeagent.application.workload import Workload, needs_s
from edgeagent.core.errors import BusyError, DeadlineError, RequestError, TooManyRequestsError
from edgeagent.execution.ways import Offered
from edgeagent.wire.messages import OfferedModel
from edgeagent.wire.offers import JobClaim, JobOffer

log = logging.getLogger(__name__)

MAX_KEPT = 8
"""Places kept for one device: one that makes offers and never comes must not keep all others out."""
MAX_ANSWERED = 1024
"""Offers that are remembered: a copy gets the same answer, and no second place."""


class Claims:
    """Of the peer `name`, which runs `models`; `run` is of this life of it."""

    def __init__(self, name: str, run: str, models: Mapping[str, OfferedModel], workload: Workload) -> None:
        self._name = name
        self._run = run
        self._models = models
        self._workload = workload
        self._answered: OrderedDict[str, JobClaim] = OrderedDict()

    def answer(self, offered: Offered) -> JobClaim:
        offer = offered.offer
        claim = self._answered.get(offer.number)
        if claim is None:
            claim = self._answered[offer.number] = self._decide(offered)
            log.info("offer device=%s answered=%s", offer.device, claim.refused or f"{claim.finish_s:.2f} s")
        while len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)
        return claim

    def _decide(self, offered: Offered) -> JobClaim:
        offer = offered.offer
        model = self._models.get(offer.model)
        if model is None or not _fits(model, offer) or (offered.rights and not _may(offered)):
            return self._refusal(offer, RequestError.code)
        if self._run not in offer.runs:  # made for another life of this peer, maybe long ago, or for others
            return self._refusal(offer, RequestError.code)
        if self._workload.num_kept(offer.device) >= MAX_KEPT:
            return self._refusal(offer, TooManyRequestsError.code)
        if self._workload.is_full:
            return self._refusal(offer, BusyError.code)
        takes_s = needs_s(model, offer.prompt_tokens, offer.answer_tokens)
        finish_s = self._workload.finish_s(takes_s)
        if offer.deadline_s is not None and finish_s > offer.deadline_s:
            return self._refusal(offer, DeadlineError.code)
        self._workload.keep_place(offer.device, takes_s)
        return JobClaim(number=offer.number, peer=self._name, finish_s=finish_s)

    def _refusal(self, offer: JobOffer, code: str) -> JobClaim:
        return JobClaim(number=offer.number, peer=self._name, refused=code)


def _fits(model: OfferedModel, offer: JobOffer) -> bool:
    is_variant = offer.variant_sha256 in (None, model.variant_sha256)
    return is_variant and offer.exact_key in ("", model.exact_key)


def _may(offered: Offered) -> bool:
    return offered.rights is not None and offered.rights.allows(offered.offer.job, offered.offer.model)

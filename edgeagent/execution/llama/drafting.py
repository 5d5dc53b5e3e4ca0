"""Drafts of answers: from the text itself or from a draft model, as far as they pay."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeagent.core.errors import ModelFileError, OutOfMemoryError
from edgeagent.core.generation import Sampling
from edgeagent.core.invariance import Invariance
from edgeagent.execution.batch_costs import BatchCosts
from edgeagent.execution.channel import Message
from edgeagent.execution.llama.context import Context
from edgeagent.execution.llama.draft_model import DraftModel, load_draft_model
from edgeagent.execution.llama.jobs import Granted
from edgeagent.execution.lookup import PromptLookup
from edgeagent.execution.speculation import ROWS, Acceptance, Draft, Offer, Speculator

MODEL_PRIOR = (0.6,)
"""Chance that a draft model's guess is right before any was seen; a guess itself, soon outweighed."""


@dataclass(slots=True)
class Drafting:
    """What one engine has learned of its batches and its draft model; it outlives answers.

    `max_rows` is the largest batch of one sequence that changes no bits (`core.invariance`); 1: nothing is drafted.
    """

    max_rows: int = 1
    model: DraftModel | None = None
    fault: str = ""
    """Why a draft model that was asked for is not there."""
    costs: BatchCosts = field(default_factory=BatchCosts)
    model_acceptance: Acceptance = field(default_factory=lambda: Acceptance(MODEL_PRIOR))


def make_drafting(context: Context, invariance: Invariance, load: Message) -> Drafting:
    """As the verdict on this variant and the load parameters `speculation` and `draft_path` allow."""
    if not load.get("speculation") or not invariance.rewind:
        return Drafting()
    max_rows = min(invariance.draft_batch, context.settings.chunk_tokens)
    path = str(load.get("draft_path") or "")
    if not path or max_rows == 1:
        return Drafting(max_rows)
    try:
        return Drafting(max_rows, load_draft_model(context, path, extra_buffers=bool(load["extra_buffers"])))
    except (ModelFileError, OutOfMemoryError) as error:  # answers do not depend on it
        return Drafting(max_rows, fault=str(error))


class Drafter:
    """The drafts of one answer. `text` is its prompt and what it has of an output."""

    def __init__(self, drafting: Drafting, text: Sequence[int], num_prompt: int, sampling: Sampling) -> None:
        self._drafting = drafting
        self._sampling = sampling
        self._num_prompt = num_prompt
        self._text = list(text)
        self._speculator = Speculator(drafting.costs)
        self._lookup: PromptLookup | None = None
        self._lookup_acceptance = Acceptance()
        self._is_alone = True
        self._proposal = Proposal()
        drafting.model_acceptance.fade()

    def propose(self, max_tokens: int) -> list[int]:
        """At most `max_tokens` guesses behind the newest token; often none."""
        max_rows = min(self._drafting.max_rows, max_tokens + 1)
        self._proposal = Proposal()
        if max_rows < ROWS[0]:
            return []
        if self._lookup is None:
            self._lookup = PromptLookup(self._text)  # only now: the first token need not wait for it
        found = self._lookup.draft(min(max_rows, ROWS[-1]) - 1)
        offer = Offer(self._lookup_acceptance, self._lookup.strength, len(found))
        choice = self._speculator.choose([offer, *self._model_offer()], max_rows)
        if choice is None:
            self._proposal = Proposal(found[:1], offer)
        elif choice.offer is offer:
            self._proposal = Proposal(found[: choice.num_tokens], offer, choice)
        else:
            self._proposal = self._drafted(choice)
        return self._proposal.guesses if self._proposal.draft else []

    def note(self, drawn: Sequence[int], granted: Granted) -> None:
        """The batch has yielded `drawn`, and the answer goes on."""
        if self._drafting.max_rows < ROWS[0]:
            return
        proposal, guesses = self._proposal, self._proposal.guesses
        if proposal.draft and granted.num_tokens > 1:
            self._speculator.record(proposal.draft, len(drawn) - 1, granted.seconds, proposal.seconds)
        else:
            self._speculator.record_waste(proposal.seconds)
            if granted.is_alone:
                self._speculator.record_plain(granted.seconds)
            if proposal.offer and guesses:
                proposal.offer.acceptance.observe(proposal.offer.strength, is_hit=guesses[0] == drawn[0])
        self._is_alone = granted.is_alone
        self.follow(drawn)

    def follow(self, tokens: Sequence[int]) -> None:
        """The text has these tokens more."""
        self._text += tokens
        if self._lookup is not None:
            for token in tokens:
                self._lookup.append(token)

    def _model_offer(self) -> list[Offer]:
        model, costs = self._drafting.model, self._drafting.costs
        if model is None or not self._is_alone:
            return []
        step = model.step_ratio(costs.step_s)
        start = (model.num_lacking(self._text) - 1) * step
        return [Offer(self._drafting.model_acceptance, 0, ROWS[-1] - 1, max(0.0, start), step)]

    def _drafted(self, choice: Draft) -> "Proposal":
        assert self._drafting.model is not None
        started = time.perf_counter()
        position = len(self._text) - self._num_prompt
        guesses = self._drafting.model.draft(self._text, position, self._sampling, choice.num_tokens)
        return Proposal(guesses, choice.offer, choice, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Guesses; those without a `draft` are only watched, to learn how good they would have been."""

    guesses: list[int] = field(default_factory=list)
    offer: Offer | None = None
    draft: Draft | None = None
    seconds: float = 0.0
    """What making them took."""

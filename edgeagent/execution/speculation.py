"""Whether to speculate now, from where, and how far: by expected tokens a second, on an allowance.

A draft of k tokens is evaluated with the newest token in one batch of k + 1 rows; the draws at the rows are those of
plain decoding, so the rows up to the first difference yield tokens (speculative decoding, Leviathan et al. 2023,
arXiv:2211.17192; here every draw is keyed by its position, so equality takes the place of rejection sampling).

Costs are in plain steps. An answer owns an account: every token pays a small share in, each draft books what it gained
or lost, and only a draft whose failure the account can bear is made. So whatever the text does, an answer loses at
most that share of its decode time, and what speculation has gained may be risked again.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeagent.execution.batch_costs import BatchCosts

SHARE = 0.02
"""Of an answer's decode time that failed drafts may cost. Two thirds of the 3 % promised: costs are estimates."""
LEAST_RATE = 1.03
"""Expected tokens a step below which a draft is not worth its trouble."""
ROWS = (2, 4, 8, 16, 32)
"""Sizes of batches tried: few, so that each is soon known."""
FORGETTING = 0.98
"""Weight of an observation against the next of its kind."""
NEGLIGIBLE = 0.01
"""Chance of a run of right guesses that is not followed further."""
PRIOR_WEIGHT = 3.0
STRENGTHS = (1, 2, 3, 4, 6, 10, 16, 32)
"""Lower ends of the classes of match lengths."""
LOOKUP_PRIOR = (0.18, 0.45, 0.65, 0.65, 0.8, 0.85, 0.93, 0.98)
"""Chance of a hit by class before an answer has shown its own: measured over 24 answers of SmolLM2-135M to 12 tasks
(copies, edits, chat, lists, code; greedy and at temperature 0.8; 4,661 tokens), rounded."""


class Acceptance:
    """How often the next guess of one source is right, by the strength it has."""

    def __init__(self, prior: Sequence[float] = LOOKUP_PRIOR) -> None:
        self._prior = [PRIOR_WEIGHT * chance for chance in prior]
        self._hits = list(self._prior)
        self._trials = [PRIOR_WEIGHT] * len(prior)
        last = len(prior) - 1
        self._classes = [min(max(0, bisect_right(STRENGTHS, s) - 1), last) for s in range(STRENGTHS[-1] + 1)]

    def observe(self, strength: int, *, is_hit: bool) -> None:
        i = self._classes[min(strength, STRENGTHS[-1])]
        self._hits[i] = self._hits[i] * FORGETTING + is_hit
        self._trials[i] = self._trials[i] * FORGETTING + 1

    def fade(self) -> None:
        """Half of what was learned is forgotten, so that a source that was bad once is tried again some day."""
        self._hits = [(hits + prior) / 2 for hits, prior in zip(self._hits, self._prior, strict=True)]
        self._trials = [(trials + PRIOR_WEIGHT) / 2 for trials in self._trials]

    def chance(self, strength: int) -> float:
        i = self._classes[min(strength, STRENGTHS[-1])]
        return self._hits[i] / self._trials[i]

    def expected(self, strength: int, counts: Sequence[int]) -> list[float]:
        """Of so many guesses in a row, how many are right before the first wrong one; `counts` rise."""
        found: list[float] = []
        total, all_right, done = 0.0, 1.0, 0
        for count in counts:
            for i in range(done, count if all_right > NEGLIGIBLE else done):
                all_right *= self.chance(strength + i)
                total += all_right
            done = count
            found.append(total)
        return found


@dataclass(frozen=True, slots=True)
class Offer:
    """What a source could draft now. Costs are in plain steps; `acceptance` is what was learned of the source."""

    acceptance: Acceptance
    strength: int
    num_tokens: int
    """The most it can draft."""
    start_cost: float = 0.0
    token_cost: float = 0.0

    def cost(self, num_tokens: int) -> float:
        return self.start_cost + num_tokens * self.token_cost


@dataclass(frozen=True, slots=True)
class Draft:
    """A decision: so many tokens of this offer."""

    offer: Offer
    num_tokens: int


class Speculator:
    """The decisions of one answer. `costs` belongs to the engine and outlives it."""

    def __init__(self, costs: BatchCosts) -> None:
        self._costs = costs
        self._credit = 0.0

    @property
    def credit(self) -> float:
        """Plain steps that failed drafts may cost now."""
        return self._credit

    def choose(self, offers: Sequence[Offer], max_rows: int) -> Draft | None:
        """The draft with the best expected rate whose failure can be borne; None: decode plainly.

        `max_rows` is the largest batch, the newest token included, that may be evaluated.
        """
        rated = (pair for offer in offers for pair in self._rated(offer, max_rows))
        rate, best = max(rated, key=lambda pair: pair[0], default=(0.0, None))
        return best if rate >= LEAST_RATE else None

    def _rated(self, offer: Offer, max_rows: int) -> Iterator[tuple[float, Draft]]:
        """The sizes of this offer that the account can bear, with expected tokens a plain step."""
        sizes = [rows - 1 for rows in ROWS if rows <= min(max_rows, offer.num_tokens + 1)]
        borne = [size for size in sizes if self._risk(offer, size) <= self._credit]
        for size, right in zip(borne, offer.acceptance.expected(offer.strength, borne), strict=True):
            yield (1 + right) / (self._costs.ratio(size + 1) + offer.cost(size)), Draft(offer, size)

    def record_plain(self, seconds: float) -> None:
        """One token was evaluated alone."""
        self._costs.observe(1, seconds)
        self._credit += SHARE

    def record_waste(self, draft_seconds: float) -> None:
        """A draft was made and not evaluated."""
        self._credit -= self._in_steps(draft_seconds)

    def record(
        self,
        draft: Draft,
        num_accepted: int,
        seconds: float,
        draft_seconds: float = 0.0,
        *,
        ended_early: bool = False,
    ) -> None:
        """The draft was evaluated in `seconds` (after `draft_seconds` of making it), and so many of it were right.

        With `ended_early` not all of it was evaluated, so that the time says nothing of batches of this size.
        """
        rows, offer = draft.num_tokens + 1, draft.offer
        cost = self._costs.in_steps(rows, seconds) + self._in_steps(draft_seconds)
        if not ended_early:
            # The larger of the two, so that a batch timed too short by chance does not invite the next.
            cost = max(cost, self._costs.ratio(rows) + offer.cost(draft.num_tokens))
            self._costs.observe(rows, seconds)
        self._credit += num_accepted + 1 - cost + SHARE * (num_accepted + 1)
        for i in range(min(num_accepted + 1, draft.num_tokens)):
            offer.acceptance.observe(offer.strength + i, is_hit=i < num_accepted)

    def _risk(self, offer: Offer, size: int) -> float:
        """Plain steps lost if nothing of it is right: the batch yields one token even then."""
        return self._costs.worst(size + 1) + offer.cost(size) - 1

    def _in_steps(self, seconds: float) -> float:
        step_s = self._costs.step_s
        return seconds / step_s if step_s else 0.0

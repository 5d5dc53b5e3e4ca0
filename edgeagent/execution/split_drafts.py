"""Guesses for a split model's answer: each token goes once around a link, so several checked together save trips.

Guesses come from the text itself. Whether one pays is decided as in an engine (`execution.speculation`), only that a
plain step here takes a round trip and both ends' work.
"""

from collections.abc import Sequence

from edgeagent.core.generation import Generation
from edgeagent.execution.batch_costs import BatchCosts
from edgeagent.execution.lookup import PromptLookup
from edgeagent.execution.speculation import ROWS, Acceptance, Draft, Offer, Speculator


class SplitDrafts:
    """Those of one answer. `max_rows` is how many tokens a step may have; 1: no guess is made.

    With `ends_early` nothing is evaluated behind a wrong guess, at the peer's end at least.
    """

    def __init__(self, generation: Generation, max_rows: int, *, ends_early: bool = False) -> None:
        self._max_rows, self._ends_early = max_rows, ends_early
        self._costs = BatchCosts()
        self._speculator = Speculator(self._costs)
        self._acceptance = Acceptance()
        self._lookup = PromptLookup((*generation.prompt, *generation.output)) if max_rows >= ROWS[0] else None
        self._draft: Draft | None = None

    def begin(self, token: int, rows: int, chunk_s: float) -> None:
        """The first token came; a chunk of `rows` of the prompt took so long."""
        self._costs.observe_chunk(rows, chunk_s)
        if self._lookup is not None:
            self._lookup.append(token)

    def propose(self, max_tokens: int) -> tuple[int, ...]:
        """At most `max_tokens` guesses behind the newest token; often none."""
        self._draft = None
        max_rows = min(self._max_rows, max_tokens + 1)
        if self._lookup is None or max_rows < ROWS[0]:
            return ()
        found = self._lookup.draft(min(max_rows, ROWS[-1]) - 1)
        self._draft = self._speculator.choose([Offer(self._acceptance, self._lookup.strength, len(found))], max_rows)
        return tuple(found[: self._draft.num_tokens]) if self._draft else ()

    def note(self, drawn: Sequence[int], seconds: float) -> None:
        """What came of the last proposal: the right guesses and one token more, `seconds` after it was begun."""
        if self._draft is None:
            self._speculator.record_plain(seconds)
        else:
            ended_early = self._ends_early and len(drawn) <= self._draft.num_tokens
            self._speculator.record(self._draft, len(drawn) - 1, seconds, ended_early=ended_early)
        if self._lookup is not None:
            for token in drawn:
                self._lookup.append(token)

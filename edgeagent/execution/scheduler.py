"""Which tokens go into an engine's next batch. Pure: it knows sizes, ages and seconds, never tensors.

Answers under way decode together (continuous batching, Orca, OSDI '22). A waiting prompt is evaluated between their
steps in pieces (chunked prefill, Sarathi-Serve, OSDI '24), each as large as the answers' pace allows. Decodes and
prompts never share a batch: llama.cpp would split it into batches of equal lengths anyway, and where shapes of
batches matter each must have its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

STALL = 1.4
"""A prompt's piece between two decode steps may take so many times as long as one: the slowest of these are then below
3 idle steps apart (at 1.5 they were at 3), and the prompt still runs at 0.4 of its rate (at 1.3 at 0.39)."""
SLACK = 0.9
"""A piece that took less than this part of what it may take lets the next one be larger."""
AGEING_S = 30.0
"""A prompt rises by one priority each time that others went before it for so long, as who waits for a turn does."""


class Kind(Enum):
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Want:
    """What one sequence could evaluate next.

    `num_tokens` are ready; a prefill without a `span` may be cut anywhere, with one exactly so many come next. Of a
    decode, those behind the first are guesses, and may be left out. `priority` 0 is served first; `due` is on the
    caller's clock.
    """

    number: int
    kind: Kind
    num_tokens: int
    span: int | None = None
    priority: int = 1
    due: float = 0.0
    is_alone: bool = False
    """It shares no batch with any other."""


@dataclass(frozen=True, slots=True)
class Grant:
    """`num_tokens` of the want with this number are in the next batch."""

    number: int
    num_tokens: int


@dataclass(slots=True)
class PieceSize:
    """Rows of a prompt's piece between decode steps: grows while pieces fit, shrinks when one does not."""

    rows: int = 1

    def note(self, rows: int, seconds: float, budget_s: float) -> None:
        if seconds > budget_s:
            self.rows = max(1, int(rows * budget_s / seconds))
        elif rows >= self.rows and seconds < SLACK * budget_s:
            self.rows = rows + max(1, rows // 8)


@dataclass(slots=True)
class Scheduler:
    """`decode_batch` sequences may decode together (`core.invariance`), `chunk_tokens` are the largest batch."""

    decode_batch: int
    chunk_tokens: int
    piece: PieceSize = field(default_factory=PieceSize)
    _decoded_s: float = 0.0
    """Seconds of decode steps since the last piece of a prompt."""
    _span_s: float = 0.0
    """Seconds that the newest prompt span which may not be cut took."""
    _turn: int = 0
    _first: int = 0
    """Where the next batch of those that share begins, when not all of them fit."""
    _passed_s: dict[int, float] = field(default_factory=dict)
    """Seconds for which prompts that are there now were not the first; once risen, they stay so until they are read."""

    def plan(self, wants: Sequence[Want]) -> list[Grant]:
        """The next batch: pieces of one kind only. Empty without wants."""
        decodes = [want for want in wants if want.kind is Kind.DECODE]
        prompts = [want for want in wants if want.kind is Kind.PREFILL]
        if not prompts:
            self._decoded_s = 0.0
            return self._decode(decodes)
        first = min(prompts, key=self._order)
        if not decodes:
            return [Grant(first.number, self.whole(first.num_tokens, first.span))]
        if self._is_due(first):
            return [Grant(first.number, first.span or min(first.num_tokens, self.chunk_tokens, self.piece.rows))]
        return self._decode(decodes)

    def observe(self, wants: Sequence[Want], grants: Sequence[Grant], seconds: float) -> None:
        """How long the batch took that was planned of these wants."""
        self._age([want for want in wants if want.kind is Kind.PREFILL], seconds)
        granted = {grant.number: grant.num_tokens for grant in grants}
        prompt = next((w for w in wants if w.number in granted and w.kind is Kind.PREFILL), None)
        if prompt is None:
            self._decoded_s += seconds
            return
        if prompt.span is not None:
            self._span_s = seconds
        elif self._decoded_s:
            self.piece.note(granted[prompt.number], seconds, STALL * self._decoded_s)
        self._decoded_s = 0.0

    def whole(self, num_tokens: int, span: int | None) -> int:
        """How many of these tokens go into a batch that nobody shares."""
        return span or min(num_tokens, self.chunk_tokens)

    def _order(self, prompt: Want) -> tuple[int, float, int]:
        risen = int(self._passed_s.get(prompt.number, 0.0) / AGEING_S)
        return prompt.priority - risen, prompt.due, prompt.number

    def _age(self, prompts: Sequence[Want], seconds: float) -> None:
        if not prompts:
            self._passed_s.clear()
            return
        first = min(prompts, key=self._order)
        waited = {want.number: seconds * (want is not first) for want in prompts}
        self._passed_s = {number: self._passed_s.get(number, 0.0) + more for number, more in waited.items()}

    def _is_due(self, prompt: Want) -> bool:
        """After every decode step; a prompt that may not be cut waits until the answers had as long as it takes."""
        return self._decoded_s > (0.0 if prompt.span is None else self._span_s)

    def _decode(self, decodes: Sequence[Want]) -> list[Grant]:
        """One token of each of those that may share a batch, or of one that may not, in turns.

        Guesses are only checked of an answer that decodes alone.
        """
        if len(decodes) == 1:
            return [Grant(decodes[0].number, decodes[0].num_tokens)]
        alone = [want for want in decodes if want.is_alone]
        shared = [want for want in decodes if not want.is_alone]
        num_shared = -(-len(shared) // self.decode_batch)
        self._turn += 1
        turn = self._turn % (num_shared + len(alone))
        if turn >= num_shared:
            return [Grant(alone[turn - num_shared].number, 1)]
        return self._next_shared(shared)

    def _next_shared(self, shared: Sequence[Want]) -> list[Grant]:
        count = min(self.decode_batch, len(shared))
        if count < len(shared):
            self._first += count
        return [Grant(shared[(self._first + i) % len(shared)].number, 1) for i in range(count)]

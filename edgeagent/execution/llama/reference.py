"""What one token at a time, alone, yields: the logits and cells that every other way to evaluate is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeagent.core.errors import EngineError
from edgeagent.execution.llama import state as kv
from edgeagent.execution.llama.jobs import Steps
from edgeagent.execution.llama.probe_slots import Part, Saved, Slots
from edgeagent.execution.llama.tensors import FloatArray

MIN_START_TOKENS = 64
"""From the start, at least so many tokens are evaluated one by one, and then again in pieces."""
SHORT, NEAR, FAR = 5, 253, 509
"""Tokens before the places where batches are tried; behind the last two, attention sees 256 cells more."""
NEAR_TOKENS, FAR_TOKENS = 17, 17
END = FAR + FAR_TOKENS
CELLS = 768
OTHER_TOKENS, OTHER_PIECE = 60, 12
STEPS = 6
TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def cut_patterns(chunk_tokens: int, num_tokens: int) -> list[list[int]]:
    """Ways to cut so many tokens into pieces of at most a chunk: whole chunks first, then every size that may matter.

    Sizes: 2 to 9, powers of two and one more, the chunk and one less.
    """
    most = min(chunk_tokens, num_tokens)
    powers = [1 << n for n in range(4, most.bit_length())]
    sizes = {*range(2, 10), *powers, *(n + 1 for n in powers), most - 1}
    left = sorted(n for n in sizes if 1 < n < most)
    full, rest = divmod(num_tokens, most)
    patterns = [[most] * full + [rest] * (rest > 0)]
    while left:
        pattern: list[int] = []
        room = num_tokens
        while fitting := [n for n in left if n <= room]:
            pattern.append(fitting[-1 if len(pattern) % 2 else 0])  # small and large by turns
            left.remove(pattern[-1])
            room -= pattern[-1]
        patterns.append(pattern + [min(room, most)] * (room > 0))
    return patterns


@dataclass(frozen=True, slots=True)
class Lane:
    """A sequence to go on with, and the logits its tokens have alone."""

    saved: Saved
    tokens: Sequence[int]
    rows: Sequence[FloatArray]


class Reference:
    """A text and another one, evaluated alone. `difference` is the largest that comparisons saw since it was set to 0.

    `cuts` are the ways its start may be cut; `saved`, cells by number of tokens; `lanes`, sequences to go on with.
    """

    def __init__(self, slots: Slots, text: Sequence[int], other: Sequence[int]) -> None:
        self.text, self.other = text, other
        self.saved: dict[int, Saved] = {}
        self.rows: dict[int, FloatArray] = {}
        self.lanes: list[Lane] = []
        self.difference = 0.0
        self._slots = slots
        self._sequences, self._chunk = slots.settings.sequences, slots.settings.chunk_tokens
        self._start = max(MIN_START_TOKENS, self._chunk)
        self.cuts = cut_patterns(self._chunk, self._start)

    def read(self) -> Steps:
        yield from self._read_text()
        yield from self._read_other()

    def _read_text(self) -> Steps:
        """The reference: where anything is compared, one token at a time; chunks in between."""
        alone = {*range(self._start), *range(NEAR, NEAR + NEAR_TOKENS), *range(FAR, END)}
        ends = {i - 1 for pattern in self.cuts for i in np.cumsum(pattern).tolist()}
        kept = ends | {*range(SHORT, SHORT + STEPS), *range(NEAR, NEAR + NEAR_TOKENS), *range(FAR, END)}
        done = 0
        while done < END:
            length = 1 if done in alone else min([self._chunk, *(i - done for i in alone if i > done)])
            (rows,) = self._slots.evaluate(Part(0, self.text[done : done + length]))
            done += length
            if done - 1 in kept:
                self.rows[done - 1] = rows[0]
            if done in (SHORT, NEAR, FAR, END):
                self.saved[done] = self._slots.save(0)
            yield

    def _read_other(self) -> Steps:
        """Lanes of a long sequence, of another text, of a shorter and a very short one; then the same, further on."""
        self._slots.cut(0)
        for done in range(0, OTHER_TOKENS, self._chunk):
            self._slots.evaluate(Part(0, self.other[done : min(done + self._chunk, OTHER_TOKENS)]))
            yield
        other = self._slots.save(0)
        bases = (self.saved[FAR], other, self.saved[NEAR], self.saved[SHORT])
        for i in range(max(2, self._sequences)):
            base, num_steps = bases[i % 4], OTHER_PIECE + 1 if i == 1 else STEPS
            text = self.other if i % 4 == 1 else self.text
            first = base.num_tokens + (i // 4) * STEPS
            tokens, rows = text[first : first + num_steps], []
            if i in (0, 2, 3):
                rows = [self.rows[first + step] for step in range(num_steps)]
            else:
                self._slots.restore(0, base)
                for token in tokens:
                    rows.append(self._slots.evaluate(Part(0, [token]))[0][0])
                    yield
            self.lanes.append(Lane(base, tokens, rows))

    def one_by_one(self, slot: int, first: int, end: int) -> Steps:
        for i in range(first, end):
            self.compare(self._slots.evaluate(Part(slot, [self.text[i]]))[0][0], self.rows[i])
            yield

    def compare(self, found: FloatArray, wanted: FloatArray) -> None:
        if np.array_equal(found.view(np.uint32), wanted.view(np.uint32)):
            return
        difference = float(np.abs(found - wanted).max())
        self.difference = max(self.difference, TINY, difference if difference <= HUGE else HUGE)

    def compare_cells(self, slot: int, first: int, end: int, reference: Saved | None = None) -> None:
        """Cells `[first, end)` against the text's, or others, where the engine shows them: not sliding windows."""
        try:
            found, wanted = kv.parse(self._slots.save(slot).data), kv.parse((reference or self.saved[END]).data)
        except EngineError:
            return
        if kv.cut_block(found, first, end) != kv.cut_block(wanted, first, end):
            self.difference = max(self.difference, TINY)

"""What is left of an engine's speed beside other answers, as its scheduler shares it out. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from edgeagent.execution.scheduler import STALL
from edgeagent.resource.cost import Speeds


class Slowdown(NamedTuple):
    """How many times as long one job more takes beside so many answers: its prompt, and each token of its answer."""

    prompt: float
    answer: float


USUAL_PROMPT, USUAL_ROW = 2.5, 0.13
"""Of an engine that does not tell. Its prompts run at 0.4 of their rate, and a sequence more adds so much to a decode
step (four rows took 1.4 times as long as one on one x86 machine, and 2.7 times on another)."""


@dataclass(frozen=True, slots=True)
class Batches:
    """Measured seconds of batches behind the same positions, each with the logits of one token.

    `rows_s`: by small numbers of tokens, from 1 on. `head_s`: the output head's part of one token.
    """

    rows_s: Mapping[int, float]
    chunk_tokens: int
    chunk_s: float
    head_s: float

    def batch_s(self, rows: float) -> float:
        """On straight lines between what was measured, up to a whole chunk."""
        for (low, low_s), (high, high_s) in itertools.pairwise(self._points):
            if rows <= high:
                return low_s + (high_s - low_s) * (rows - low) / (high - low)
        return self.chunk_s * rows / self.chunk_tokens

    def step_s(self, answers: int, decode_batch: int) -> float:
        """Until each of so many answers has a token: in as many batches as it takes, with the logits of all rows."""
        whole, rest = divmod(answers, decode_batch)
        return whole * self._step_s(decode_batch) + (self._step_s(rest) if rest else 0.0)

    def piece_of(self, seconds: float) -> float:
        """How many tokens of a prompt are read in so long, in one batch; at least one, and at most a chunk."""
        for (low, low_s), (high, high_s) in itertools.pairwise(self._points):
            if seconds < high_s:
                return max(1.0, low + (high - low) * (seconds - low_s) / (high_s - low_s))
        return float(self.chunk_tokens)

    @property
    def _points(self) -> list[tuple[int, float]]:
        """Rising: a larger batch that was quicker than a smaller one was measured wrongly."""
        known = sorted({**self.rows_s, self.chunk_tokens: self.chunk_s}.items())
        return list(zip((rows for rows, _ in known), itertools.accumulate((s for _, s in known), max), strict=True))

    def _step_s(self, answers: int) -> float:
        return self.batch_s(answers) + (answers - 1) * self.head_s


def slowdowns(batches: Batches, slots: int, decode_batch: int, *, is_cut: bool) -> tuple[Slowdown, ...]:
    """Beside 1, 2, … answers, up to one fewer than `slots`; `decode_batch` of them may be evaluated together.

    A prompt comes in pieces between their batches, each of which may take `STALL` times as long as one of these. Unless
    it `is_cut`, its chunks come whole, and answers are written for as long as each takes.
    """
    found: list[Slowdown] = []
    for num in range(1, slots):
        answer = batches.step_s(num + 1, decode_batch) / batches.rows_s[1]
        others_s = batches.step_s(min(num, decode_batch), decode_batch)
        tokens = batches.piece_of(STALL * others_s)
        turn_s = others_s + batches.batch_s(tokens)
        prompt = turn_s / tokens / (batches.chunk_s / batches.chunk_tokens) if is_cut else 2.0
        found.append(Slowdown(max(1.0, prompt), max(1.0, answer)))
    return tuple(found)


def speeds_beside(speeds: Speeds, num_answers: int, told: Sequence[Slowdown] = ()) -> Speeds:
    """Of one job more in an engine that writes so many answers already; `told`: how much slower it says that it is
    beside 1, 2, … of them (the last of these: beside more).

    What others' steps take is added to each token's time, so what attention to the own context adds stays the same.
    """
    if not num_answers:
        return speeds
    usual = Slowdown(USUAL_PROMPT, 1 + USUAL_ROW * num_answers)
    slowdown = told[min(num_answers, len(told)) - 1] if told else usual
    return replace(
        speeds,
        prefill_tok_s=speeds.prefill_tok_s / slowdown.prompt,
        decode_tok_s=speeds.decode_tok_s / slowdown.answer,
    )


def speeds_of_stage(speeds: Speeds, num_answers: int) -> Speeds:
    """Of a stage, which has a process of its own: it shares the cores with the engine that writes the answers, so many
    they are, since these are evaluated together."""
    if not num_answers:
        return speeds
    return Speeds(
        speeds.prefill_tok_s / 2,
        speeds.decode_tok_s / 2,
        speeds.chunk_position_s * 2,
        speeds.token_position_s * 2,
    )

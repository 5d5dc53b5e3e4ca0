"""Windows of LoCoMo conversations that hold all evidence of their questions, and needles put into such windows.

`$EDGEAGENT_BENCH_DATA/locomo-dev.json` is not part of the project; see `recall_data`.
"""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import recall_data
from recall_data import Conversation, Turn

from edgeagent.agent.relevance import Unit

LEARNED_ON = ("conv-30", "conv-41")
"""Weights are learned and choices were made on these; figures are of the others."""
NAMES = ("Orla", "Tomasz", "Ines", "Kwame", "Yuki", "Petra")
THINGS = ("greenhouse", "boathouse", "workshop", "cellar", "attic", "garage")


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answer: str
    category: str
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Window:
    """Turns in a row of one conversation, and the questions that are answered inside."""

    conversation: str
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]

    def units(self) -> list[Unit]:
        """A turn a unit, a session a source, named after its date."""
        return [Unit(_date(turn), " ".join(turn.text.split()) + "\n") for turn in self.turns]

    def evidence(self, question: Question) -> frozenset[int]:
        return frozenset(i for i, turn in enumerate(self.turns) if turn.id in question.evidence)


def _date(turn: Turn) -> str:
    return datetime.fromtimestamp(turn.at, UTC).strftime("%d %B %Y, %H:%M").lstrip("0")


def answers() -> dict[tuple[str, str], str]:
    """The gold answers by conversation and question."""
    path = Path(os.environ["EDGEAGENT_BENCH_DATA"]) / "locomo-dev.json"
    documents = json.loads(path.read_text(encoding="utf-8"))
    found = ((raw["sample_id"], q) for raw in documents for q in raw["qa"] if "answer" in q)
    return {(name, q["question"]): str(q["answer"]) for name, q in found}


def windows(conversation: Conversation, counts: Sequence[int], window_tokens: int) -> list[Window]:
    """Windows of at most so many tokens, each half a window on; a question belongs to the first with its evidence.

    `counts`: tokens of each turn.
    """
    gold, made = answers(), list[Window]()
    left = list(conversation.inquiries)
    first = 0
    while True:
        end, size = first, 0
        while end < len(counts) and size + counts[end] <= window_tokens:
            size += counts[end]
            end += 1
        inside = {turn.id for turn in conversation.turns[first:end]}
        held = [inquiry for inquiry in left if inquiry.evidence <= inside]
        left = [inquiry for inquiry in left if not inquiry.evidence <= inside]
        questions = (
            Question(i.text, gold[conversation.name, i.text], recall_data.CATEGORIES[i.category], i.evidence)
            for i in held
        )
        made.append(Window(conversation.name, conversation.turns[first:end], tuple(questions)))
        if end == len(counts):
            return made
        gone = 0
        while gone < window_tokens / 2:
            gone += counts[first]
            first += 1


def drawn(every: Sequence[Window], num_windows: int, num_questions: int, seed: int) -> list[Window]:
    """A seeded sample: so many windows of those with enough questions, and so many questions of each."""
    draw = random.Random(seed)
    rich = [w for w in every if len(w.questions) >= num_questions] or list(every)
    chosen = draw.sample(rich, min(num_windows, len(rich)))
    return [replace(w, questions=tuple(draw.sample(w.questions, min(num_questions, len(w.questions))))) for w in chosen]


def with_passkey(window: Window, seed: int) -> Window:
    """The window with one sentence that holds a code, somewhere, and the question for it."""
    draw = random.Random(seed)
    code, thing = str(draw.randrange(10_000, 100_000)), draw.choice(THINGS)
    needle = _needle(window, f"By the way, the code for the {thing} door is {code}.", draw)
    asked = Question(f"What is the code for the {thing} door?", code, "passkey", frozenset({needle.id}))
    return _with(window, [needle], asked, draw)


def with_facts(window: Window, seed: int) -> Window:
    """The window with three sentences, far apart, that a question needs together."""
    draw = random.Random(seed)
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    number, month = draw.randrange(12, 90), draw.choice(("March", "June", "October"))
    told = (
        f"{name} is going to repair the {thing} for us.",
        f"{name} asks {number} pounds an hour for work on the {thing}.",
        f"The work on the {thing} begins in {month}.",
    )
    needles = [_needle(window, text, draw) for text in told]
    answer = f"{name}, for {number} pounds an hour, from {month}"
    question = f"Who repairs the {thing}, what does it cost an hour, and when does it begin?"
    asked = Question(question, answer, "facts", frozenset(needle.id for needle in needles))
    return _with(window, needles, asked, draw)


def _needle(window: Window, text: str, draw: random.Random) -> Turn:
    speaker = draw.choice(window.turns).text.split(":")[0]
    return Turn(f"needle {text}", "", 0.0, f"{speaker}: {text}")


def _with(window: Window, needles: Sequence[Turn], asked: Question, draw: random.Random) -> Window:
    turns = list(window.turns)
    for needle, at in zip(needles, sorted(draw.sample(range(1, len(turns)), len(needles)), reverse=True), strict=True):
        before = turns[at - 1]
        turns.insert(at, replace(needle, session=before.session, at=before.at))
    return replace(window, turns=tuple(turns), questions=(asked,))

"""LoCoMo conversations as memories: turns go in as a user's turns would, questions come with their evidence.

`$EDGEAGENT_BENCH_DATA/locomo-dev.json` is not part of the project (CC BY-NC 4.0, https://github.com/snap-research/locomo).
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeagent.agent.memory.cues import spoken, without_names
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.store import MemoryStore
from edgeagent.core.memory import Embedder, MemoryItem, Vector, WordMatcher
from edgeagent.execution.onnx.engine import SentenceModel

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
"""Category 5 has no gold answer and is left out."""
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Turn:
    id: str
    session: str
    at: float
    text: str
    """`Name: what was said [photo: its caption]`."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A question of the data set and the ids of the turns that answer it."""

    text: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Conversation:
    name: str
    turns: tuple[Turn, ...]
    inquiries: tuple[Inquiry, ...]

    @property
    def now(self) -> float:
        """A day after its last turn."""
        return max(turn.at for turn in self.turns) + DAY_S


@dataclass(frozen=True, slots=True)
class Case:
    """What recall weighs for one question: the candidates' features, and which of them are evidence."""

    category: int
    features: tuple[tuple[float, ...], ...]
    is_evidence: tuple[bool, ...]
    num_evidence: int
    matches: tuple[tuple[float, ...], ...] = ()
    """Of each candidate: its best match for each token of the question."""


def load() -> list[Conversation]:
    """Ends the program with `data not found` when there is none."""
    path = Path(os.environ.get("EDGEAGENT_BENCH_DATA", "")) / "locomo-dev.json"
    if not path.is_file():
        sys.exit("data not found: set EDGEAGENT_BENCH_DATA to the folder that has locomo-dev.json")
    return [_conversation(raw) for raw in json.loads(path.read_text(encoding="utf-8"))]


def _conversation(raw: dict[str, Any]) -> Conversation:
    said = raw["conversation"]
    sessions = [key for key in said if isinstance(said[key], list)]
    turns = tuple(_turn(turn, key, _time(said[f"{key}_date_time"])) for key in sessions for turn in said[key])
    known = {turn.id for turn in turns}
    inquiries = (Inquiry(q["question"], q["category"], frozenset(q["evidence"]) & known) for q in raw["qa"])
    return Conversation(raw["sample_id"], turns, tuple(i for i in inquiries if i.evidence and i.category in CATEGORIES))


def _turn(raw: dict[str, Any], session: str, at: float) -> Turn:
    caption = f" [photo: {raw['blip_caption']}]" if raw.get("blip_caption") else ""
    return Turn(raw["dia_id"], session, at, f"{raw['speaker']}: {raw['text']}{caption}".strip())  # as it is stored


def _time(text: str) -> float:
    """For instance `4:04 pm on 20 January, 2023`."""
    return datetime.strptime(text, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC).timestamp()


class Remembering:
    """An embedder that keeps what it embedded, so that one text is computed once in a run."""

    def __init__(self, embedder: Embedder, say: Callable[[str], None]) -> None:
        self._embedder = embedder
        self._say = say
        self.vectors: dict[str, Vector] = {}

    @property
    def dimensions(self) -> int:
        return self._embedder.dimensions

    async def embed(self, texts: list[str]) -> list[Vector]:
        new = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        self.vectors |= zip(new, await self._embedder.embed(new), strict=True)
        if new and len(self.vectors) // 500 != (len(self.vectors) - len(new)) // 500:
            self._say(f"{len(self.vectors)} texts embedded")
        return [self.vectors[text] for text in texts]


async def remember(path: Path, embedder: Embedder, conversation: Conversation) -> None:
    """Store the conversation's turns as memories of the user of its name."""
    memory = await Memory.open(path, embedder, lambda: conversation.now)
    try:
        items = [
            MemoryItem(id=turn.id, user="", kind="turn", text=turn.text, source=turn.session, created_at=turn.at)
            for turn in conversation.turns
        ]
        await memory.import_(conversation.name, items)
    finally:
        await memory.close()


class Matching:
    """A word matcher in this process that keeps the vectors of every text's words."""

    def __init__(self, model: SentenceModel) -> None:
        self._tokens = functools.cache(model.tokens)
        self._model = model

    async def match_words(self, question: str, texts: list[str]) -> list[tuple[float, ...]]:
        asked = self._tokens(question)
        return [tuple(map(float, self._model.matches(asked, self._tokens(text)))) for text in texts]


async def cases(
    path: Path, embedder: Embedder, conversation: Conversation, matcher: WordMatcher | None = None
) -> list[Case]:
    """What recall weighs for each question of a remembered conversation; matches only with a matcher."""
    memory = await Memory.open(path, embedder, lambda: conversation.now)
    store = MemoryStore.open(path, embedder.dimensions)
    try:
        ids = dict(zip((t.id for t in conversation.turns), _ids(store, conversation), strict=True))
        texts = {ids[turn.id]: turn.text for turn in conversation.turns}
        found = []
        for inquiry in conversation.inquiries:
            question = await memory.question(conversation.name, inquiry.text)
            features = store.features(conversation.name, question)
            evidence = {ids[turn] for turn in inquiry.evidence}
            flags = tuple(id_ in evidence for id_ in features)
            matches: list[tuple[float, ...]] = []
            if matcher:
                nameless = without_names(inquiry.text, store.speakers(conversation.name))
                matches = await matcher.match_words(nameless, [spoken(texts[id_]) for id_ in features])
            found.append(Case(inquiry.category, tuple(features.values()), flags, len(evidence), tuple(matches)))
        return found
    finally:
        store.close()
        await memory.close()


def _ids(store: MemoryStore, conversation: Conversation) -> Sequence[str | None]:
    return store.ids(conversation.name, [turn.text for turn in conversation.turns])

"""Whether a request asks for a tool, and for which: embedding similarity against contrasting requests.

A request must be nearer to a tool (its name, description and each sentence of it) than to plain conversation, and
nearer than to questions *about* the tool's subject: "How do clocks work?" is no call for a clock. Arguments that
the request itself offers count as evidence; a required argument that it does not offer rules the tool out.
"""

import math
import operator
import re
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.agent.candidates import without_names
from edgeagent.agent.words import stem
from edgeagent.core.chat import ToolSpec
from edgeagent.core.memory import Embedder, Vector

# Tuned on tests/agent/requests_calibration.json and judged on requests_held_out.json; cosines of MiniLM-L6.
MIN_SCORE = 0.36
MIN_MARGIN = 0.03
SUBJECT_WEIGHT = 0.85
OVERLAP_WEIGHT = 0.2
MAX_CACHED_TEXTS = 2048  # three megabytes of vectors at 384 dimensions

_CONVERSATION = (
    "Tell me a joke.",
    "Tell me a story.",
    "Write a short poem.",
    "Write an email.",
    "Write code.",
    "Explain how something works.",
    "How does it work?",
    "What is it?",
    "What does this word mean?",
    "What is the difference between these?",
    "Who was this person?",
    "Who wrote this?",
    "When did it happen?",
    "Why is it like that?",
    "What is the capital of it?",
    "What was it?",
    "What is the size of it?",
    "Is it bigger or older?",
    "How long does it take?",
    "How many are there?",
    "Was it built long ago?",
    "Who is the leader of it?",
    "What kind of plant or animal is it?",
    "Tell me about the history of a place.",
    "Give me some advice.",
    "Give me some ideas.",
    "Summarize this text.",
    "Translate this sentence.",
    "How are you?",
    "Hello!",
    "Thank you, that was helpful.",
)
_ABOUT_SUBJECT = (
    "How does {} work?",
    "What is {}?",
    "Why do we have {}?",
    "Tell me about the history of {}.",
    "Tell me a joke about {}.",
    "Write a poem about {}.",
)
_VERBS = frozenset(
    {"get", "set", "send", "search", "find", "fetch", "play", "start", "create", "make", "add", "remove", "delete"}
    | {"update", "list", "show"}
)


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a tool fits a request. `score` and `margin` are cosines plus the evidence of its arguments."""

    tool: ToolSpec
    score: float
    margin: float
    """By how much the tool is nearer than conversation and than questions about its subject."""

    @property
    def is_wanted(self) -> bool:
        return self.score >= MIN_SCORE and self.margin >= MIN_MARGIN


class ToolSelector:
    """Compares requests with tools; vectors of tools and fixed texts are computed once and kept."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._cache: OrderedDict[str, array[float]] = OrderedDict()

    async def rank(self, request: str, tools: Sequence[tuple[ToolSpec, float]]) -> list[Fit]:
        """The tools, best first; each comes with its evidence. Raises EngineError."""
        texts = {text for tool, _ in tools for text in (*_told(tool), *_rivals(tool))}
        await self._learn([*sorted(texts), *_CONVERSATION])
        # Names are blanked out: Tokyo in a request must not make it like the example that mentions Tokyo.
        (vector,) = await self._embedder.embed([without_names(request)])
        asked = _floats(vector)
        words = _stems(request)
        conversation = self._nearest(asked, _CONVERSATION)
        fits = []
        for tool, evidence in tools:
            score = self._nearest(asked, _told(tool)) + evidence + OVERLAP_WEIGHT * _overlap(tool, words)
            rival = max(conversation, SUBJECT_WEIGHT * self._nearest(asked, _rivals(tool)))
            fits.append(Fit(tool, score, score - rival))
        return sorted(fits, key=lambda fit: fit.score, reverse=True)

    async def _learn(self, texts: Sequence[str]) -> None:
        if unknown := [text for text in texts if text not in self._cache]:
            vectors = await self._embedder.embed(unknown)
            self._cache.update(zip(unknown, map(_floats, vectors), strict=True))
        for text in texts:
            self._cache.move_to_end(text)
        while len(self._cache) > max(MAX_CACHED_TEXTS, len(texts)):
            self._cache.popitem(last=False)

    def _nearest(self, asked: "array[float]", texts: Sequence[str]) -> float:
        return max(math.fsum(map(operator.mul, asked, self._cache[text])) for text in texts)


def _told(tool: ToolSpec) -> tuple[str, ...]:
    """What a tool says of itself: name with description, and each sentence alone (examples are sentences)."""
    return (f"{_spaced(tool.name)}: {tool.description}", *re.split(r"(?<=[.?!])\s+", tool.description))


def _rivals(tool: ToolSpec) -> tuple[str, ...]:
    words = [word for word in _spaced(tool.name).split() if word not in _VERBS]
    subject = " ".join(words) or _spaced(tool.name)
    return tuple(text.format(subject) for text in _ABOUT_SUBJECT)


def _overlap(tool: ToolSpec, words: set[str]) -> float:
    """The fraction of the words of a tool's name that the request uses."""
    own = _stems(_spaced(tool.name))
    return len(own & words) / max(1, len(own))


def _stems(text: str) -> set[str]:
    return {stem(word) for word in re.findall(r"[a-z]+", text.casefold())}


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[_-]+", " ", name).casefold()


def _floats(vector: Vector) -> "array[float]":
    return array("f", vector)

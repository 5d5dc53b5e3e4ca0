"""What of a user's message is worth remembering without being told to: what he says of himself and his own. Pure."""

import re

from edgeagent.agent.words import sentences

MIN_WORDS, MAX_CHARS = 4, 400
MAX_KEPT = 3
"""Sentences of one message: a pasted letter is no conversation."""

_OWN = re.compile(r"\b(?:my|mine|our|ours|i'm|i am|i've|i have|i was|i live|i work|i like|i love|i hate|we)\b", re.I)
_ASKS = re.compile(
    r"\?\s*$|^(?:please|can|could|would|will|what|when|where|who|why|how|which|tell|show|give|write|explain|list|find"
    r"|make|help|let|do|does|did|is|are)\b|\b(?:i want|i need|i would like|i'd like|i wish) (?:you|to know|to ask)\b",
    re.I,
)


def told(message: str) -> list[str]:
    """The sentences in which somebody tells of himself; none for questions, requests and long texts."""
    if len(message) > MAX_CHARS * MAX_KEPT:
        return []
    found = [
        sentence
        for sentence in sentences(message)
        if len(sentence.split()) >= MIN_WORDS
        and len(sentence) <= MAX_CHARS
        and _OWN.search(sentence)
        and not _ASKS.search(sentence)
    ]
    return found[:MAX_KEPT]

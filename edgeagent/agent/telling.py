"""What of a user's message is worth remembering without being told to: what he says of himself and his own. Pure.

In doubt nothing is: neither words that may be another's (pasted, quoted, to be worked on) nor secrets.
"""

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
_CITES = re.compile(r"[\n\"“”„«»`<>{}]|:(?:\s|$)|https?://|(?<!\w)['\u2018]\w")
"""Lines, quotes, what a colon brings, code: such a message may hold somebody else's words."""
_SECRET = re.compile(
    r"\b(?:pass(?:word|phrase|code|port)s?|pins?|secrets?|tokens?|credentials?|login|keys?|codes?|iban|cvv|cvc|ssn"
    r"|social security|(?:account|card|credit|licen[cs]e|insurance) (?:card|number|no)\b)\b"
    r"|(?:\d[ ./-]?){9,}|(?=\S*\d)(?=\S*[^\W\d])\S{12,}",
    re.I,
)
"""Words for what must not lie about, long numbers (cards, accounts, telephones), and what looks like a key."""


def told(message: str) -> list[str]:
    """The sentences in which somebody tells of himself; none for questions, requests, quotes, secrets, long texts."""
    if len(message) > MAX_CHARS * MAX_KEPT or _CITES.search(message.strip()):
        return []
    return [sentence for sentence in dict.fromkeys(sentences(message)) if _is_told(sentence)][:MAX_KEPT]


def _is_told(sentence: str) -> bool:
    is_short = len(sentence.split()) >= MIN_WORDS and len(sentence) <= MAX_CHARS
    is_own = bool(_OWN.search(sentence)) and not _ASKS.search(sentence)
    return is_short and is_own and not _SECRET.search(sentence)

"""Finds what a request wants remembered, or looked up among what was remembered."""

import re

from edgeagent.agent.words import sentences

_POLITE = r"^(?:(?:ok|okay|hey|hi|hello|please|can you|could you|would you|will you|kindly|i want you to)[ ,]+)*"
# The first verbs ask for it by themselves; the others mean other things unless "that" or a colon follows.
_SAVE = re.compile(
    _POLITE + r"(?:"
    r"(?:remember|memori[sz]e|keep in mind|bear in mind|don'?t forget|(?:make|take) (?:a )?(?:mental )?note)"
    r"(?: (?:this|the fact|for me|in your memory|of))*(?: that\b|:|,)*"
    r"|(?:note|save|store|write|add|put)"
    r"(?: (?:down|this|it|the fact|for me|(?:in|to|into) (?:your )?memory))*(?: that\b|:)"
    r")\s+(?!where|what|when|who|how|if|which)(.+)$",
    re.IGNORECASE,
)
_SEARCH = re.compile(
    r"(?:(?:remember|recall|tell you|told you|noted|saved|stored|memory|memories|notes?) (?:about|for|on|of) "
    r"|(?:do|can) you (?:remember|recall)(?: about)? |in (?:your|my) (?:memory|memories|notes) for "
    r"|did i (?:say|tell you) about )(?!that\b)(.+)$",
    re.IGNORECASE,
)


def statements(text: str) -> tuple[str, ...]:
    """What the request wants saved or looked up, without the words that ask for it."""
    for sentence in sentences(text):
        if match := _SAVE.search(sentence) or _SEARCH.search(sentence):
            return (match.group(1).rstrip(" .!?"),)
    return ()


def wants_saving(text: str) -> bool:
    return any(_SAVE.search(sentence) for sentence in sentences(text))

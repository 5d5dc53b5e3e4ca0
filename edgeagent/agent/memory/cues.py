"""What a text or a question shows without any model: who speaks, whether it asks, times, numbers, pictures. Pure."""

import re
from enum import IntFlag

from edgeagent.model.sentences import SPEAKER

MAX_COUNTED_NAMES = 3
_NAMES_SHIFT = 5

_MONTH = "january|february|march|april|june|july|august|september|october|november|december"
# Both read lower case: sre takes three times as long to ignore it.
_TIME = re.compile(
    r"\b(?:yesterday|today|tonight|tomorrow|last|next|ago|weeks?|weekend|months?|years?|days?|night|morning|evening"
    r"|mon|tues?|wed|thurs?|fri|sat|sun|(?:mon|tues|wednes|thurs|fri|satur|sun)day|recently|just|soon|since|earlier"
    rf"|now|{_MONTH}|20\d\d|\d+(?:st|nd|rd|th)|(?:in|of|last|next|since|early|late|mid) may)\b",
)
_NUMBER = re.compile(r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twice|once|few|couple|dozen|hundred)\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_PICTURE = re.compile(r"\[(?:photo|image|picture): ", re.IGNORECASE)
_ASKS_WHEN = re.compile(
    r"^\s*(?:when|what (?:date|day|month|year|time)|which (?:date|day|month|year)|how long|since when"
    r"|how many (?:days|weeks|months|years))\b|\bhow long ago\b",
    re.IGNORECASE,
)
_ASKS_NUMBER = re.compile(r"\bhow (?:many|much|old|often)\b", re.IGNORECASE)
_ASKS_PICTURE = re.compile(
    r"\b(?:photo|picture|image|pic|painting|poster|show|share|post)(?:e?d|s|ing|graph\w*)?\b", re.IGNORECASE
)


class Cue(IntFlag):
    """Stored with a memory as an integer; bits 5 and 6 count names inside sentences, up to three."""

    IS_QUESTION = 1
    HAS_QUESTION = 2
    HAS_TIME = 4
    HAS_NUMBER = 8
    HAS_PICTURE = 16


class Wish(IntFlag):
    """What a question asks for."""

    TIME = 1
    NUMBER = 2
    PICTURE = 4


def speaker_of(text: str) -> str | None:
    """Who says a text that begins `Name: `; None for other texts."""
    found = SPEAKER.match(text)
    return found["name"] if found else None


def spoken(text: str) -> str:
    """The text without its speaker: the embedding compares matters better than names."""
    found = SPEAKER.match(text)
    return text[found.end() :] if found else text


def without_names(question: str, names: list[str]) -> str:
    """The question without the names of those who speak in the memory; the whole when nothing else is in it."""
    if not names:
        return question
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    rest = " ".join(re.sub(rf"\b(?:{pattern})(?:['\u2019]s)?\b", " ", question).split())
    return rest if re.search(r"\w", rest) else question


def named_in(question: str, names: list[str]) -> list[str]:
    """Those of `names` that the question mentions."""
    return [name for name in names if re.search(rf"\b{re.escape(name)}\b", question)]


def cues_of(text: str) -> int:
    picture = _PICTURE.search(text)
    words = text[: picture.start()] if picture else text
    lowered = words.lower()
    cues = 0
    for cue, holds in (
        (Cue.IS_QUESTION, words.rstrip().endswith("?")),
        (Cue.HAS_QUESTION, "?" in words),
        (Cue.HAS_TIME, _TIME.search(lowered)),
        (Cue.HAS_NUMBER, _NUMBER.search(lowered)),
        (Cue.HAS_PICTURE, picture),
    ):
        if holds:
            cues |= cue.value
    return cues | (min(len(_NAME.findall(words)), MAX_COUNTED_NAMES) << _NAMES_SHIFT)


def num_names(cues: int) -> int:
    """0 to 3."""
    return (cues >> _NAMES_SHIFT) & MAX_COUNTED_NAMES


def wishes_of(question: str) -> Wish:
    wishes = Wish(0)
    for wish, pattern in ((Wish.TIME, _ASKS_WHEN), (Wish.NUMBER, _ASKS_NUMBER), (Wish.PICTURE, _ASKS_PICTURE)):
        if pattern.search(question):
            wishes |= wish
    return wishes

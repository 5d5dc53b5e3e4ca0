"""Values that a request itself offers for a tool's parameters: numbers, quotes, names, noun phrases, statements.

A small model copies badly but chooses well, so the arguments' grammar is made of these candidates.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgeagent.agent.arithmetic_text import expressions, spoken_to_digits
from edgeagent.agent.places import zone_of
from edgeagent.agent.statements import statements, wants_saving
from edgeagent.agent.words import DETERMINERS, STOP_WORDS, sentences

MAX_CANDIDATES = 24

_PRONOUNS = frozenset({"i", "you", "we", "they", "he", "she", "it"})  # what follows one is a verb
_QUOTED = re.compile(r"\"([^\"]{1,400})\"|(?<!\w)'([^']{1,400})'(?!\w)")
_WORD = re.compile(r"[^\W_]+(?:['./&:@-][^\W_]+)*|[^\s\w]|_")
_SAID = re.compile(r"\b(?:saying|says|say|that|telling \w+|with the text)\b:?\s+(.+)$|:\s+(.+)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A piece of the request that could be a value; `before` is the word in front of it, in lower case."""

    text: str
    before: str = ""
    is_name: bool = False
    """Quoted or capitalised: more likely a value than a common noun."""


def numbers(text: str) -> tuple[int | float, ...]:
    """The numbers in `text` in order, number words from two upwards included."""
    spoken = re.sub(r"(?<=\d),(?=\d{3}\b)", "", spoken_to_digits(re.sub(r"\b[Oo]ne\b", "", text.casefold())))
    found = re.findall(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?![\d.]*\d)", spoken)
    return tuple(dict.fromkeys(float(each) if "." in each else int(each) for each in found))


def anchored_number(text: str, words: Iterable[str]) -> int | float | None:
    """The number that stands beside one of `words`: "5 nights", "a height of 9", "volume 30"."""
    named = "|".join(re.escape(word.removesuffix("s")) for word in words if len(word) > 2)
    if not named:
        return None
    number = r"(-?\d+(?:\.\d+)?)"
    beside = rf"{number}[ -](?:{named})s?\b|\b(?:{named})s? (?:(?:of|to|at|is|=) )*{number}"
    match = re.search(beside, spoken_to_digits(text.casefold()))
    return numbers(_first_group(match))[0] if match else None


def formatted(kind: str, text: str) -> tuple[str, ...] | None:
    """Candidates for a string of a known `format`; None when the format is not one of ours."""
    match kind:
        case "arithmetic":
            return expressions(text)
        case "statement":
            return statements(text)
        case "memory-action":
            return ("save",) if wants_saving(text) else ("search",)
        case "place":
            return places(text)
        case "email":
            return tuple(re.findall(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", text))
        case "uri":
            return tuple(each.rstrip(".,;!?") for each in re.findall(r"https?://\S+", text))
        case "date":
            return tuple(re.findall(r"\b\d{4}-\d{2}-\d{2}\b", text))
    return None


def places(text: str) -> tuple[str, ...]:
    """Places in `text`; those with a known time zone hide the others."""
    zones = re.findall(r"\b[A-Z][A-Za-z_]+/[A-Z][A-Za-z_/]+", text)
    found = [each for each in phrases(text) if each.is_name or each.before in {"in", "at", "for"}]
    known = [each.text for each in found if zone_of(each.text)]
    return unique(zones or known or [each.text for each in found if each.before in {"in", "at"} and each.is_name])


def sayings(text: str) -> tuple[Phrase, ...]:
    """Whole utterances to pass on: what follows "saying", "that" or a colon."""
    quoted = [Phrase(_first_group(match), is_name=True) for match in _QUOTED.finditer(text)]
    said = [
        Phrase(_first_group(match).rstrip(" ."), is_name=True) for match in map(_SAID.search, sentences(text)) if match
    ]
    return tuple(quoted or said)


def phrases(text: str) -> tuple[Phrase, ...]:
    """Quoted pieces, names and runs of content words, in the order of the text."""
    found: dict[str, Phrase] = {}
    for match in _QUOTED.finditer(text):
        found.setdefault(_first_group(match), Phrase(_first_group(match), is_name=True))
    for sentence in sentences(_QUOTED.sub(" , ", text)):
        for phrase in _runs(_WORD.findall(sentence)):
            found.setdefault(phrase.text, phrase)
    return tuple(found.values())[:MAX_CANDIDATES]


def without_names(text: str) -> str:
    """`text` with every name replaced by "it": what is asked for, whatever it is asked about."""
    for phrase in phrases(text):
        if phrase.is_name:
            text = text.replace(phrase.text, "it")
    return text


def _runs(words: list[str]) -> Iterable[Phrase]:
    """Maximal runs of content words, and the capitalised part of a run as a candidate of its own."""
    start = 0
    while start < len(words):
        end = start
        while end < len(words) and _is_content(words, end):
            end += 1
        if end == start:
            start += 1
            continue
        before = _word_before(words, start)
        is_verb = before in _PRONOUNS or (start == 0 and end == 1 and len(words) > 2)
        if not is_verb or any(word[0].isupper() for word in words[start + (start == 0) : end]):
            yield from _names_and_run(words[start:end], before, is_first=start == 0)
        start = end


def _word_before(words: list[str], start: int) -> str:
    """The word that leads to a run: "in" for "in the kitchen"."""
    return next((word.casefold() for word in reversed(words[:start]) if word.casefold() not in DETERMINERS), "")


def _names_and_run(run: list[str], before: str, *, is_first: bool) -> Iterable[Phrase]:
    capitals = [word[0].isupper() for word in run]
    if is_first and len(run) > 1:
        capitals[0] = False  # a sentence begins with a capital whatever its first word is
    if any(capitals) and not all(capitals):
        first = capitals.index(True)
        last = len(capitals) - capitals[::-1].index(True)
        yield Phrase(" ".join(run[first:last]), before if first == 0 else run[first - 1].casefold(), is_name=True)
        return
    yield Phrase(" ".join(run), before, is_name=all(capitals) and not (is_first and len(run) == 1))


def _is_content(words: list[str], at: int) -> bool:
    word = words[at]
    if not any(character.isalpha() for character in word):
        return False
    if word in {"The", "La", "Le", "Los", "El"} and at and at + 1 < len(words) and words[at + 1][0].isupper():
        return True  # "The Beatles" inside a sentence
    return word.casefold().removesuffix("'s") not in STOP_WORDS


def _first_group(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))[:MAX_CANDIDATES]

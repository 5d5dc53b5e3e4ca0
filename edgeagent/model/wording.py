"""What the words of a sentence are worth when something has to go: names, numbers and negations never go. Pure."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

NEGATIONS = frozenset(
    re.findall(
        r"\w+",
        "no not nor never none nobody nothing nowhere neither without except unless hardly barely only cannot",
    )
)
NUMBERS = frozenset(
    re.findall(
        r"\w+",
        "zero one two three four five six seven eight nine ten eleven twelve dozen twenty thirty hundred thousand "
        "million half once twice first second third last",
    )
)
OPENERS = frozenset(
    re.findall(
        r"\w+",
        "a after all also an and another as at because before both but by each even every finally for from he her here "
        "his how however i if in it its just let many most my now of on or our please she so some such that the their "
        "then there these they this those though to under until we what when where which while who why with you your",
    )
)
"""Words that begin a sentence with a capital and are no name."""

_WORD = re.compile(r"\s*+\S++\s*+")
_BARE = re.compile(r"[^\W_](?:[\w'\u2019.,:-]*[^\W_])?")
_QUOTED = re.compile(r"\"[^\"]{1,400}\"|\u201c[^\u201d]{1,400}\u201d|\u00ab[^\u00bb]{1,400}\u00bb|`[^`]{1,400}`")
_CODE = re.compile(r"[_=<>{}\[\]\\/|@#$%^&*~]|\w\(|\.\w{1,5}$|[a-z][A-Z]|^--?\w")
_SENTENCE_ENDS = ".!?:…"
_NO_QUOTE = (sys.maxsize, sys.maxsize)
"""Behind every word."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word with the white space around it, so that a text's words joined are the text."""

    text: str
    is_fixed: bool
    """A name, a number, a negation, code, or inside quotes: it stays whatever the budget."""

    @property
    def bare(self) -> str:
        return bare(self.text)


def bare(text: str) -> str:
    """A word without punctuation and case; empty where nothing else is in it."""
    found = _BARE.search(text)
    return found[0].casefold() if found else ""


def words(text: str) -> Iterator[Word]:
    """The words of a text in order, in time linear in it. White space alone is no word."""
    quotes = (found.span() for found in _QUOTED.finditer(text))
    begin, end = next(quotes, _NO_QUOTE)
    is_first = True
    for found in _WORD.finditer(text):
        while end <= found.start():
            begin, end = next(quotes, _NO_QUOTE)
        inside = begin < found.end()
        yield Word(found[0], inside or _is_fixed(found[0].strip(), is_first=is_first))
        is_first = found[0].rstrip()[-1:] in _SENTENCE_ENDS


def _is_fixed(word: str, *, is_first: bool) -> bool:
    plain = bare(word)
    if any(c.isdigit() for c in word) or plain in NUMBERS or denies(plain):
        return True
    if _CODE.search(word):
        return True
    initial = next((c for c in word if c.isalpha()), "")
    return initial.isupper() and not (is_first and plain in OPENERS) and plain != "i"


def denies(word: str) -> bool:
    """Whether a bare word turns what is said into its opposite."""
    return word in NEGATIONS or word.endswith(("n't", "n\u2019t"))


def facts(text: str) -> frozenset[str]:
    """What may not be lost: the fixed words, bare."""
    return frozenset(word.bare or word.text.strip() for word in words(text) if word.is_fixed)

"""English function words and how a request is cut: what can begin, end or fill a value."""

import re

MAX_REQUEST_CHARS = 2_000  # a pasted article is no source of arguments, and every candidate costs time

DETERMINERS = frozenset({"the", "a", "an", "my", "our", "your", "his", "her", "their", "some", "any"})

# Pronouns, auxiliaries, prepositions, question words, and the verbs that requests to a machine begin with.
STOP_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
        a about above add after again all already also am an and any are as ask at be been before below between book
        but by calculate can change compute convert could create current currently day did do does don't down each
        find for from get give go got had has have he her here him his how i i'd i'll i'm if in into is it it's its
        just let let's like list listen look make many me much my need next no not now number of off on onto or order
        our out over play please put record remind right round say saying says search send set she should show since
        so some start stop switch take tell text than thank thanks that the their them then there these they this
        those through to today tomorrow tonight too turn under until up us using value very want was we were what
        what's when where which who why will with within work would write yes you your
        """,
    )
)

_TYPOGRAPHY = str.maketrans(
    {
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{MINUS SIGN}": "-",
    }
)


def plain(request: str) -> str:
    """The beginning of a request with typewriter quotes and operators, which is what the patterns know."""
    return request[:MAX_REQUEST_CHARS].translate(_TYPOGRAPHY)


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip()) if part]


def stem(word: str) -> str:
    """A word without its plural ending, roughly: enough to match "lights" with "light"."""
    folded = word.casefold()
    return folded.removesuffix("s") if len(folded) > 3 else folded

"""Words as the word index sees them: folded, split and stemmed by SQLite's own tokenizers."""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apsw

STOP_STEMS = frozenset(
    re.findall(
        r"\w+",
        "a about am an and ani ar as at be been but by can could d did do doe for from ha had have he her hi him how i "
        "if in is it ll m me my of on or our re s she should so t tell than that the thei their them then there these "
        "thi to us ve wa we were what when where which who whom whose why will with would you your",
    )
)
"""Stems of words that say nothing about a text's matter: function words, and what an apostrophe leaves behind."""


def stems(connection: "apsw.Connection", text: str) -> list[str]:
    """The text's words in order, stemmed by Porter's algorithm (Program 14, 1980), as FTS5 stores them."""
    return _tokens(connection, "porter", ["unicode61"], text)


def stemmer() -> Callable[[str], list[str]]:
    """Telling stems of texts, without a database at hand, for the thread that calls this."""
    import apsw

    connection = apsw.Connection(":memory:")
    return lambda text: telling(stems(connection, text))


def folded(connection: "apsw.Connection", text: str) -> list[str]:
    """The text's words in order, without case and accents: each is one term of a full-text query."""
    return _tokens(connection, "unicode61", [], text)


def telling(found: Iterable[str]) -> list[str]:
    """Without stop words."""
    return [stem for stem in found if stem not in STOP_STEMS]


def _tokens(connection: "apsw.Connection", name: str, arguments: list[str], text: str) -> list[str]:
    import apsw

    tokenizer = connection.fts5_tokenizer(name, arguments)
    made = tokenizer(text.encode(), apsw.FTS5_TOKENIZE_DOCUMENT, None, include_offsets=False, include_colocated=False)
    return [str(token) for token in made]

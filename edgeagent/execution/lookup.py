"""Prompt lookup: what followed the newest tokens where they stood before, as a guess of what follows now.

Answers that edit, quote or summarise repeat their prompt, and lists repeat themselves; there an index of the text
drafts as well as a small model, for nothing (prompt lookup decoding, A. Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding). Places are chained by their last two tokens, newest first, as in
LZ77's hash chains (RFC 1951, section 4).
"""

from collections.abc import Sequence

MAX_PLACES = 16
"""Earlier places compared a token."""
MAX_COMPARED = 16
"""Tokens compared at a place. A copy that is being followed counts on beyond it."""
NOWHERE = 0
"""No match has its continuation at the very start of the text."""


class PromptLookup:
    """One text of tokens that grows at its end. A step takes about the same time, however long the text is.

    The guess is read at one earlier place. While the text goes on as it did there, the place moves along, unless a
    longer match turns up; when it does not, the longest match among the newest places is next.
    """

    def __init__(self, text: Sequence[int]) -> None:
        self._text: list[int] = []
        self._newest: dict[tuple[int, int], int] = {}
        """Of each pair of tokens, the place behind its newest occurrence."""
        self._older: list[int] = []
        """Of each place, the next older one behind the same pair."""
        self._single: dict[int, int] = {}
        self._place, self._length = NOWHERE, 0
        for token in text:
            self._index()
            self._text.append(token)
        self._find()

    @property
    def strength(self) -> int:
        """How many tokens agree before the place that `draft` reads: the whole copy so far."""
        return self._length

    def append(self, token: int) -> None:
        """The text has one token more."""
        place, length = self._place, self._length
        is_followed = place != NOWHERE and self._text[place] == token
        self._index()
        self._text.append(token)
        if is_followed and length + 1 >= MAX_COMPARED:
            self._place, self._length = place + 1, length + 1
            return
        self._find()
        if is_followed and length + 1 >= self._length:
            self._place, self._length = place + 1, length + 1

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next, as many if there are any; empty without a place alike.

        Where the place is so near the end that the text runs out, the draft goes on reading itself: a period.
        """
        if self._place == NOWHERE:
            return []
        drafted = self._text[self._place : self._place + limit]
        for i in range(limit - len(drafted)):
            drafted.append(drafted[i])
        return drafted

    def _index(self) -> None:
        """What ends the text has a token behind it from now on, so it can be found."""
        text, end = self._text, len(self._text)
        self._older.append(NOWHERE)
        if end >= 1:
            self._single[text[-1]] = end
        if end >= 2:
            pair = text[-2], text[-1]
            self._older[end] = self._newest.get(pair, NOWHERE)
            self._newest[pair] = end

    def _find(self) -> None:
        """The longest match among the newest places; of equals, the newest."""
        text = self._text
        self._place, self._length = NOWHERE, 0
        place = self._newest.get((text[-2], text[-1]), NOWHERE) if len(text) >= 2 else NOWHERE
        for _ in range(MAX_PLACES):
            if place == NOWHERE or self._length == MAX_COMPARED:
                break
            if (length := self._agreement(place)) > self._length:
                self._place, self._length = place, length
            place = self._older[place]
        if self._length == 0 and text and (place := self._single.get(text[-1], NOWHERE)):
            self._place, self._length = place, 1

    def _agreement(self, place: int) -> int:
        """Tokens before `place` that are the newest ones, too; at most `MAX_COMPARED`."""
        text, end = self._text, len(self._text)
        length = 0
        while length < min(place, MAX_COMPARED) and text[place - 1 - length] == text[end - 1 - length]:
            length += 1
        return length

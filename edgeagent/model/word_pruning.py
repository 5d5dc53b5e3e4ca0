"""Reduction level L3: inside kept sentences, the words that a language model could have guessed go. Pure.

A word's surprisal is measured once, when a text is stored (`execution/llama/surprisal.py`). What a reader would fill in
by himself has little of it (Selective Context, Li et al., EMNLP 2023; LLMLingua, Jiang et al., EMNLP 2023). Names,
numbers, negations, code, quotes and the question's own words stay.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from edgeagent.model.wording import OPENERS, Word, bare, words

DROPPED_SHARE = 0.3
"""Of the words of the sentences that are kept."""
MAX_SENTENCE_SHARE = 0.5
"""Of one sentence's words: more leaves fragments."""
EASY_TO_GUESS = "words that could be guessed"


@dataclass(frozen=True, slots=True)
class _Place:
    sentence: int
    word: int
    bits: float


def prune_words(
    texts: Sequence[str],
    bits: Sequence[Sequence[float] | None],
    question: str,
    share: float = DROPPED_SHARE,
) -> list[str]:
    """The texts without up to `share` of all their words, those with the least surprisal first.

    `bits`: the surprisal of each word of a text; None for one that was never measured, which stays as it is.
    """
    split = [list(words(text)) for text in texts]
    asked = {plain for word in question.split() if (plain := bare(word)) not in OPENERS}
    places = [place for i, found in enumerate(split) for place in _droppable(i, found, bits[i], asked)]
    room = int(share * sum(len(found) for found, told in zip(split, bits, strict=True) if told is not None))
    gone: list[set[int]] = [set() for _ in texts]
    for place in sorted(places, key=lambda place: (place.bits, place.sentence, place.word)):
        if room > 0 and len(gone[place.sentence]) + 1 <= MAX_SENTENCE_SHARE * len(split[place.sentence]):
            gone[place.sentence].add(place.word)
            room -= 1
    return [_joined(found, dropped) for found, dropped in zip(split, gone, strict=True)]


def _droppable(
    sentence: int, found: Sequence[Word], bits: Sequence[float] | None, asked: Container[str]
) -> list[_Place]:
    if bits is None or len(bits) != len(found) or _is_structured(found):
        return []
    return [
        _Place(sentence, i, bits[i]) for i, word in enumerate(found) if not word.is_fixed and word.bare not in asked
    ]


def _is_structured(found: Sequence[Word]) -> bool:
    """Headings, tables and code blocks: there is no word too many in them."""
    return not found or found[0].text.lstrip().startswith(("#", "|", "```", "~~~"))


def _joined(found: Sequence[Word], dropped: Container[int]) -> str:
    """What is left, with the white space that ended the text, and the mark that ended the sentence."""
    parts: list[str] = []
    for i, word in enumerate(found):
        if i not in dropped:
            parts.append(word.text)
        elif parts:
            body, kept = word.text.rstrip(), parts[-1].rstrip()
            mark = body[-1] if body[-1:] in ".!?" and kept[-1:] not in ".!?" else ""
            kept = kept.rstrip(",;:") if mark else kept
            gap = word.text[len(body) :] if "\n" in word.text[len(body) :] or mark else parts[-1][len(kept) :]
            parts[-1] = kept + mark + gap
    return "".join(parts)

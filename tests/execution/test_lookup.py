"""Prompt lookup: where the newest tokens stood before, and what followed there."""

import random

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.execution.lookup import MAX_COMPARED, PromptLookup

texts = st.lists(st.integers(0, 3), max_size=60)


def grown(text: list[int]) -> PromptLookup:
    lookup = PromptLookup([])
    for token in text:
        lookup.append(token)
    return lookup


def agreement(text: list[int], place: int) -> int:
    """Tokens before `place` that are the last ones."""
    length = 0
    while length < place and text[place - 1 - length] == text[-1 - length]:
        length += 1
    return length


def test_guess_is_what_followed_the_same_words_before() -> None:
    assert grown([5, 6, 7, 8, 9, 5, 6]).draft(2) == [7, 8]


def test_text_without_repetition_has_no_guess() -> None:
    assert grown(list(range(50))).draft(8) == []
    assert grown([]).draft(8) == []


def test_newest_of_equal_matches_is_read() -> None:
    assert grown([1, 2, 3, 1, 2, 4, 0, 1, 2]).draft(1) == [4]


def test_longest_match_is_read_before_newer_ones() -> None:
    assert grown([9, 8, 1, 2, 3, 0, 7, 1, 2, 4, 0, 9, 8, 1, 2]).draft(1) == [3]


def test_period_is_drafted_beyond_the_end_of_the_text() -> None:
    assert grown([1, 2, 3, 1, 2, 3]).draft(7) == [1, 2, 3, 1, 2, 3, 1]


def test_strength_of_a_long_copy_is_its_whole_length() -> None:
    source = list(range(100, 200))
    lookup = PromptLookup([*source, 1])
    for token in source[:80]:
        lookup.append(token)
    assert lookup.strength == 80
    assert lookup.draft(200)[:20] == source[80:]


@given(texts, st.integers(0, 60), st.integers(1, 9))
def test_indexing_at_once_and_growing_find_equally_long_matches(text: list[int], cut: int, limit: int) -> None:
    lookup = PromptLookup(text[:cut])
    for token in text[cut:]:
        lookup.append(token)
    whole = PromptLookup(text)
    assert min(lookup.strength, MAX_COMPARED) >= whole.strength
    assert len(lookup.draft(limit)) in (0, limit)


@given(texts)
def test_strength_is_the_length_of_a_match_in_the_text(text: list[int]) -> None:
    lookup = grown(text)
    draft = lookup.draft(1)
    if not draft:
        return
    places = [p for p in range(1, len(text)) if text[p] == draft[0]]
    assert any(agreement(text, p) >= lookup.strength for p in places)


@given(st.lists(st.integers(0, 400), min_size=2, max_size=200, unique=True), st.randoms())
def test_second_copy_of_a_text_is_guessed_from_its_second_token_on(source: list[int], rng: random.Random) -> None:
    lookup = PromptLookup([*source, 999, *rng.sample(range(500, 900), 20)])
    lookup.append(source[0])
    for token in source[1:]:
        assert lookup.draft(1) == [token]
        lookup.append(token)

"""Selecting sentences under a budget."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.plan import Dropped, ReductionLevel
from edgeagent.model.reduction import DUPLICATE, LESS_RELEVANT, TOO_LONG, Selection, Sentence, select, similarity
from edgeagent.model.sentences import split_sentences

Case = tuple[list[Sentence], list[float], int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num = draw(st.integers(0, 25))
    sentences = [
        Sentence(
            source=f"s{i * 3 // max(num, 1)}",
            index=i,
            text=draw(st.sampled_from([f"Unique {i}. ", "Again. ", "Again.\n\n", "Twice. "])),
            tokens=draw(st.integers(0, 30)),
            protected=draw(st.integers(0, 9)) == 0,
        )
        for i in range(num)
    ]
    similarities = draw(st.lists(st.floats(-1, 1), min_size=num, max_size=num))
    return sentences, similarities, draw(st.integers(-5, 300))


def total(sentences: list[Sentence] | tuple[Sentence, ...]) -> int:
    return sum(sentence.tokens for sentence in sentences)


def prose(*texts: str, tokens: int = 10, source: str = "doc") -> list[Sentence]:
    return [Sentence(source, i, text, tokens) for i, text in enumerate(texts)]


def kept_indices(selection: Selection) -> list[int]:
    return [sentence.index for sentence in selection.kept]


@given(cases())
def test_select_is_never_over_budget_except_for_the_protected(case: Case) -> None:
    sentences, similarities, budget = case
    selection = select(sentences, similarities, budget)
    protected = total([s for s in sentences if s.protected])
    assert total(selection.kept) <= max(budget, protected)
    assert selection.excess_tokens == max(0, protected - budget)


@given(cases())
def test_select_keeps_order_and_every_protected_sentence(case: Case) -> None:
    sentences, similarities, budget = case
    selection = select(sentences, similarities, budget)
    for source in {s.source for s in sentences}:
        kept = [s.index for s in selection.kept if s.source == source]
        assert kept == sorted(kept)
    assert {s.index for s in sentences if s.protected} <= set(kept_indices(selection))


@given(cases())
def test_select_accounts_for_every_token(case: Case) -> None:
    sentences, similarities, budget = case
    report = select(sentences, similarities, budget).report
    assert report.tokens_in == total(sentences)
    assert report.tokens_kept + sum(d.tokens for d in report.dropped) == report.tokens_in
    assert len({(d.source, d.reason) for d in report.dropped}) == len(report.dropped)


@given(cases())
def test_select_again_changes_nothing(case: Case) -> None:
    sentences, similarities, budget = case
    once = select(sentences, similarities, budget)
    again = select(once.kept, [similarities[s.index] for s in once.kept], budget)
    assert again.kept == once.kept
    assert again.report.dropped == ()


@given(cases())
def test_select_keeps_no_unprotected_repeat(case: Case) -> None:
    sentences, similarities, budget = case
    kept = select(sentences, similarities, budget).kept
    free = [" ".join(s.text.split()) for s in kept if not s.protected]
    held = {" ".join(s.text.split()) for s in kept if s.protected}
    assert len(set(free)) == len(free)
    assert not held & set(free)


@given(cases())
def test_select_with_room_for_all_drops_only_duplicates(case: Case) -> None:
    sentences, similarities, _ = case
    report = select(sentences, similarities, total(sentences)).report
    assert {d.reason for d in report.dropped} <= {DUPLICATE}


def test_select_prefers_the_relevant() -> None:
    selection = select(prose("A. ", "B. ", "C. ", "D. "), [0.1, 0.9, 0.2, 0.8], 20)
    assert kept_indices(selection) == [1, 3]
    assert selection.texts == {"doc": "B. D. "}
    assert selection.report.level is ReductionLevel.L2
    assert selection.report.dropped == (Dropped(source="doc", tokens=20, reason=LESS_RELEVANT),)


def test_select_lifts_the_neighbours_of_a_relevant_sentence() -> None:
    similarities = [0.1, 0.9, 0.1, 0.11]
    sentences = prose("A. ", "B. ", "C. ", "D. ")
    assert kept_indices(select(sentences, similarities, 20)) == [1, 2]
    assert kept_indices(select(sentences, similarities, 20, neighbour_weight=0.0)) == [1, 3]


def test_select_does_not_lift_across_sources() -> None:
    sentences = [*prose("A. ", source="a"), *prose("B. ", "C. ", source="b")]
    assert {s.text for s in select(sentences, [0.9, 0.1, 0.11], 20).kept} == {"A. ", "C. "}


def test_select_puts_the_source_that_matters_most_next_to_the_question_and_says_so() -> None:
    sentences = [*prose("A1. ", "A2. ", source="a"), *prose("B1. ", "B2. ", source="b"), *prose("C1. ", source="c")]
    selection = select(sentences, [0.2, 0.9, 0.1, 0.05, 0.5], 40, neighbour_weight=0.0)
    assert list(selection.texts.items()) == [("b", "B1. "), ("c", "C1. "), ("a", "A1. A2. ")]
    assert [s.text for s in selection.kept] == ["B1. ", "C1. ", "A1. ", "A2. "]
    assert selection.report.order == ("b", "c", "a")


def test_select_leaves_sources_as_they_came_where_all_have_room() -> None:
    sentences = [*prose("A. ", source="a"), *prose("B. ", source="b")]
    selection = select(sentences, [0.9, 0.1], 20)
    assert (list(selection.texts), selection.report.order) == (["a", "b"], ())


def test_select_long_sentence_that_gives_way_is_reported_as_too_long() -> None:
    sentences = [Sentence("doc", 0, "Long. ", 50), Sentence("doc", 1, "Short. ", 5)]
    selection = select(sentences, [0.9, 0.1], 10)
    assert kept_indices(selection) == [1]
    assert selection.report.dropped == (Dropped(source="doc", tokens=50, reason=TOO_LONG),)


def test_select_drops_a_repeat_in_another_source() -> None:
    sentences = [*prose("Same words.\n", source="a"), *prose("Same  words. ", "Other. ", source="b")]
    selection = select(sentences, [0.5, 0.5, 0.1], 100)
    assert selection.texts == {"a": "Same words.\n", "b": "Other. "}
    assert selection.report.dropped == (Dropped(source="b", tokens=10, reason=DUPLICATE),)


def test_select_protected_alone_over_budget_are_kept_and_reported() -> None:
    sentences = [Sentence("doc", 0, "Held. ", 50, protected=True), Sentence("doc", 1, "Free. ", 5)]
    selection = select(sentences, [0.0, 1.0], 20)
    assert kept_indices(selection) == [0]
    assert selection.excess_tokens == 30
    assert (selection.report.tokens_in, selection.report.tokens_kept) == (55, 50)


def test_select_keeps_a_paragraph_break_whose_sentence_was_dropped() -> None:
    text = "Keep this. Drop this.\n\n```\ncode\n```\n"
    sentences = [Sentence("doc", i, unit, 10) for i, unit in enumerate(split_sentences(text))]
    assert select(sentences, [1.0, 0.0, 1.0], 20, 0.0).texts == {"doc": "Keep this.\n\n```\ncode\n```\n"}


def test_select_with_another_number_of_similarities_is_refused() -> None:
    with pytest.raises(ValueError, match="2 sentences need as many similarities, not 1"):
        select(prose("A. ", "B. "), [0.5], 10)


def test_similarity_of_unit_vectors_is_their_cosine() -> None:
    right, up, tilted = (struct.pack("<2f", *v) for v in ((1, 0), (0, 1), (0.6, 0.8)))
    assert similarity(right, right) == 1.0
    assert similarity(right, up) == 0.0
    assert similarity(right, tilted) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="cannot be compared"):
        similarity(right, right + up)

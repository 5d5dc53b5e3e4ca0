"""Dropping words that could be guessed, and the surprisals that say which."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.model.surprisal import UNKNOWN_BITS, of_words, packed, unpacked
from edgeagent.model.word_pruning import MAX_SENTENCE_SHARE, prune_words
from edgeagent.model.wording import OPENERS, facts, words

texts = st.text(st.sampled_from("ab Anot3\"`.,_\n'é"), max_size=80)


@given(texts)
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(word.text for word in words(text)) == (text if text.strip() else "")


@given(st.lists(texts, max_size=5), st.data())
def test_no_fact_and_no_word_of_the_question_goes(sentences: list[str], data: st.DataObject) -> None:
    counts = [len(list(words(text))) for text in sentences]
    bits = [data.draw(st.lists(st.floats(0, 30), min_size=n, max_size=n)) for n in counts]
    question = data.draw(texts)
    for before, after in zip(sentences, prune_words(sentences, bits, question), strict=True):
        assert facts(before) <= facts(after) | {w.bare for w in words(after)} | {w.text.strip() for w in words(after)}
        kept, had = len(list(words(after))), len(list(words(before)))
        assert had - kept <= MAX_SENTENCE_SHARE * had
        asked = {word.bare for word in words(question)} & {word.bare for word in words(before)}
        assert asked - OPENERS - {""} <= {word.bare for word in words(after)}


def test_the_words_with_least_surprisal_go_first_and_the_sentence_keeps_its_end() -> None:
    text = "the big pump on the left side was not descaled in May, of course. Then it ran.\n\n"
    bits = [1.0, 9, 9, 2, 0.5, 9, 8, 3, 0.1, 9, 4, 0.1, 0.2, 0.3, 5, 4, 6]
    [pruned] = prune_words([text], [bits], "What about the side?", share=0.2)
    assert pruned == "the big pump on left side was not descaled in May. Then it ran.\n\n"


def test_what_was_not_measured_stays_as_it_is() -> None:
    assert prune_words(["so it goes on and on. "], [None], "why", share=0.5) == ["so it goes on and on. "]
    assert prune_words(["# so it goes on and on\n"], [[0.0] * 7], "why", share=0.5) == ["# so it goes on and on\n"]


def test_tokens_count_for_the_word_they_begin_in() -> None:
    tokens: list[tuple[int, float | None]] = [(3, None), (3, 2.0), (3, 1.5), (4, 0.25), (1, 0.5)]
    assert of_words("The pumps ran.", tokens) == [UNKNOWN_BITS, 3.5, 0.75]
    assert of_words("One two", [(3, 1.0)]) == [1.0, UNKNOWN_BITS]


@given(st.lists(st.floats(0, 100), max_size=40))
def test_packed_surprisals_come_back_within_a_sixteenth_of_a_bit(bits: list[float]) -> None:
    back = unpacked(packed(bits))
    assert all(abs(a - min(b, UNKNOWN_BITS)) <= 1 / 16 for a, b in zip(back, bits, strict=True))

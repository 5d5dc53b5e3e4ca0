"""Events from probabilities: properties of the two finders."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.core.listening import REFRACTORY_S, SpeechFinder, WakeFinder
from edgeagent.core.perception import SpeechSegment, WakeWord

CHUNK_S = 0.032
probabilities = st.lists(st.floats(0, 1), max_size=300)
runs = st.lists(st.tuples(st.integers(1, 40), st.sampled_from([0.01, 0.4, 0.99])), max_size=20)


def segments(heard: list[float]) -> list[SpeechSegment]:
    finder = SpeechFinder(CHUNK_S)
    return [*finder.feed(heard), *finder.finish()]


@given(probabilities | runs.map(lambda lengths: [p for count, p in lengths for _ in range(count)]))
def test_segments_are_in_order_within_the_stream_and_long_enough(heard: list[float]) -> None:
    found = segments(heard)
    for segment in found:
        assert 0 <= segment.start_s < segment.end_s <= (len(heard) + 1) * CHUNK_S + 1e-3
        assert segment.end_s - segment.start_s >= 0.25
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(found))


@given(runs, st.integers(1, 7))
def test_segments_do_not_depend_on_how_the_stream_was_cut(lengths: list[tuple[int, float]], step: int) -> None:
    heard = [p for count, p in lengths for _ in range(count)]
    finder = SpeechFinder(CHUNK_S)
    pieces = [s for i in range(0, len(heard), step) for s in finder.feed(heard[i : i + step])]
    assert [*pieces, *finder.finish()] == segments(heard)


def test_speech_with_a_short_pause_is_one_segment_and_with_a_long_one_two() -> None:
    word, doubt, pause = [0.9] * 20, [0.4] * 10, [0.1] * 3
    assert len(segments([*word, *pause, *word])) == 1
    assert len(segments([*word, *doubt, *word])) == 1  # not sure enough to end it
    assert len(segments([*word, *pause, *pause, *word])) == 2


def test_click_is_no_speech_and_open_speech_ends_with_the_stream() -> None:
    assert segments([0.0] * 10 + [0.99] * 5 + [0.0] * 10) == []
    [open_segment] = segments([0.0] * 10 + [0.9] * 20)
    assert (open_segment.start_s, open_segment.end_s) == (0.29, 0.96)  # 10 to 30 chunks, and 30 ms before
    assert open_segment.probability == pytest.approx(0.9)


def woken(heard: list[float]) -> list[WakeWord]:
    return list(WakeFinder("Hey", 0.9, 5, 0.05, 0.03).feed(heard))


def test_wake_word_needs_a_whole_window_and_is_heard_once() -> None:
    assert woken([0.99] * 4) == []
    [word] = woken([0.0] * 10 + [0.99] * 8)
    assert word == WakeWord(phrase="Hey", at_s=0.47, probability=0.99)
    assert woken([0.0] * 10 + [0.99, 0.99, 0.0, 0.99, 0.99]) == []


@given(runs)
def test_wake_words_are_apart_and_over_the_cutoff(lengths: list[tuple[int, float]]) -> None:
    found = woken([p for count, p in lengths for _ in range(count)])
    assert all(word.probability > 0.9 for word in found)
    assert all(b.at_s - a.at_s >= REFRACTORY_S - 0.002 for a, b in itertools.pairwise(found))

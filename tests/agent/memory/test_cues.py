"""What texts and questions show by themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.cues import (
    Cue,
    Wish,
    cues_of,
    named_in,
    num_names,
    speaker_of,
    spoken,
    wishes_of,
    without_names,
)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("Gina: Hello there", "Gina", "Hello there"),
        ("Mary Ann O'Neil: yes", "Mary Ann O'Neil", "yes"),
        ("no speaker here", None, "no speaker here"),
        ("12:30 is lunch", None, "12:30 is lunch"),
        ("https://example.org", None, "https://example.org"),
        ("Zoë: ça va", "Zoë", "ça va"),
    ],
)
def test_speaker_is_the_name_before_the_first_colon(text: str, name: str | None, said: str) -> None:
    assert (speaker_of(text), spoken(text)) == (name, said)


@pytest.mark.parametrize(
    ("text", "cues"),
    [
        ("Jon: What's up?", Cue.IS_QUESTION | Cue.HAS_QUESTION),
        ("Why? I like it.", Cue.HAS_QUESTION),
        ("We met last Friday", Cue.HAS_TIME),
        ("You may go", Cue(0)),
        ("It was in May", Cue.HAS_TIME),
        ("I have two dogs", Cue.HAS_NUMBER),
        ("Look! [photo: a dog in 2 hats?]", Cue.HAS_PICTURE),
    ],
)
def test_cues_tell_questions_times_numbers_and_pictures(text: str, cues: Cue) -> None:
    assert cues_of(text) & 31 == cues


def test_cues_count_names_inside_sentences_up_to_three() -> None:
    assert [num_names(cues_of(t)) for t in ("Nobody", "I saw Ann", "to Ann, Bob, Cid, Dan, Eve")] == [0, 1, 3]


@given(st.text(max_size=200))
def test_cues_of_any_text_fit_a_byte(text: str) -> None:
    assert 0 <= cues_of(text) < 128
    assert spoken(text) in text


@pytest.mark.parametrize(
    ("question", "rest"),
    [
        ("When did Jon lose his job?", "When did lose his job?"),
        ("What is Jon's favourite dance?", "What is favourite dance?"),
        ("Jon", "Jon"),
        ("Jonathan left", "Jonathan left"),
    ],
)
def test_names_of_speakers_are_taken_out_of_a_question(question: str, rest: str) -> None:
    assert without_names(question, ["Jon", "Gina"]) == rest
    assert without_names(question, []) == question


def test_named_in_finds_whole_names_only() -> None:
    assert named_in("Did Jon meet Gina's sister?", ["Jon", "Gina", "Sis", "A.B (c"]) == ["Jon", "Gina"]


@pytest.mark.parametrize(
    ("question", "wishes"),
    [
        ("When was it?", Wish.TIME),
        ("How many cats has she?", Wish.NUMBER),
        ("How many weeks passed?", Wish.TIME | Wish.NUMBER),
        ("What is in the photo?", Wish.PICTURE),
        ("Who is she?", Wish(0)),
    ],
)
def test_wishes_of_a_question(question: str, wishes: Wish) -> None:
    assert wishes_of(question) == wishes

"""Features and the score over them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.cues import Cue
from edgeagent.agent.memory.features import NAMES, Asked, Entry, Features, Lexicon
from edgeagent.agent.memory.scoring import Scorer, shipped

NOBODY = Asked(frozenset(), False, False, False, (), 0.0)


def entry(row: int, session: int | None = 1, cues: int = 0, near: float = 0.0, speaker: int | None = None) -> Entry:
    return Entry(row, session, speaker, 5, cues, 0.0, near)


def features(
    entries: list[Entry], holders: dict[str, set[int]], asked: Asked = NOBODY, weights: dict[str, float] | None = None
) -> dict[int, dict[str, float]]:
    rows = {term: frozenset(found) for term, found in holders.items()}
    lexicon = Lexicon(weights or dict.fromkeys(holders, 2.0), rows, 5.0, 10)
    numbers = [e.row for e in entries]
    found = Features(lexicon, asked, {e.row: e for e in entries}).of(numbers)
    return {row: dict(zip(NAMES, values, strict=True)) for row, values in zip(numbers, found, strict=True)}


def test_words_count_by_weight_and_go_to_the_neighbours() -> None:
    found = features(
        [entry(row) for row in range(1, 6)], {"rare": {3}, "also": {3, 5}}, weights={"rare": 3.0, "also": 1.0}
    )
    assert found[3]["words"] == pytest.approx(1.0)
    assert found[3]["coverage"] == 1.0
    assert found[5]["words"] == pytest.approx(0.25)
    assert [found[r]["words_before"] for r in (4, 3)] == pytest.approx([1.0, 0.0])
    assert [found[r]["words_after"] for r in (2, 4)] == pytest.approx([1.0, 0.25])
    assert [found[r]["words_2_before"] for r in (5, 4)] == pytest.approx([1.0, 0.0])
    assert found[1]["words_2_after"] == pytest.approx(1.0)
    assert found[3]["rarest"] == pytest.approx(3 / math.log(12))
    assert found[4]["window"] == pytest.approx(0.7)


def test_neighbours_end_with_their_session_and_notes_have_none() -> None:
    found = features([entry(1, 1), entry(2, 2), entry(3, None), entry(4, None)], {"word": {1, 3}})
    assert found[2]["words_before"] == found[4]["words_before"] == 0.0
    assert found[2]["first"] == 1.0
    assert found[3]["first"] == 0.0


def test_an_answer_inherits_from_the_question_before_it() -> None:
    found = features([entry(1, cues=int(Cue.IS_QUESTION | Cue.HAS_QUESTION)), entry(2)], {"word": {1}})
    assert (found[1]["is_question"], found[2]["is_question"]) == (1.0, 0.0)
    assert (found[1]["tells_asked"], found[2]["tells_asked"]) == (0.0, 1.0)
    assert found[2]["words_of_asked"] == found[1]["words"] > 0


def test_speakers_and_wishes_matter_only_when_asked_for() -> None:
    entries = [entry(1, speaker=7, cues=int(Cue.HAS_TIME)), entry(2, speaker=8)]
    asked = Asked(frozenset({7}), True, False, False, (), 0.0)
    found = features(entries, {}, asked)
    assert [found[r]["speaker"] for r in (1, 2)] == [1.0, 0.0]
    assert [found[r]["other_speaker"] for r in (1, 2)] == [0.0, 1.0]
    assert [found[r]["time_wanted"] for r in (1, 2)] == [1.0, 0.0]
    unasked = features(entries, {})
    assert {unasked[r][name] for r in (1, 2) for name in ("speaker", "other_speaker", "time_wanted")} == {0.0}


rows = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from([None, 1, 2]), st.integers(0, 127), st.floats(-1, 1)),
    unique_by=lambda drawn: drawn[0],
    min_size=1,
    max_size=20,
)


@given(rows, st.dictionaries(st.sampled_from("xyz"), st.sets(st.integers(1, 60)), max_size=3))
def test_any_candidates_get_finite_features_and_scores(
    drawn: list[tuple[int, int | None, int, float]], holders: dict[str, set[int]]
) -> None:
    found = features([entry(row, session, cues, near) for row, session, cues, near in drawn], holders)
    for values in found.values():
        assert all(math.isfinite(value) for value in values.values())
        assert 0 < shipped().score(list(values.values())) < 1


def test_scorer_refuses_weights_of_unknown_features() -> None:
    with pytest.raises(ValueError, match="colour"):
        Scorer.of({"words": 1.0, "colour": 2.0}, 0.0)


def test_shipped_weights_prefer_words_and_nearness() -> None:
    blank = dict.fromkeys(NAMES, 0.0)
    plain = shipped().score(list(blank.values()))
    better = blank | {"words": 0.5, "words_best": 1.0, "coverage": 0.5, "window": 0.5, "near": 0.3, "near_best": 0.1}
    assert shipped().score(list(better.values())) > plain

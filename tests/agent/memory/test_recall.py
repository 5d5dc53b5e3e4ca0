"""Recall on a store: namespaces, candidates, hostile questions."""

import random
from array import array
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeagent.agent.memory import recall
from edgeagent.agent.memory.features import NAMES
from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.scoring import Scorer
from edgeagent.agent.memory.store import MemoryStore, NewMemory

DIMENSIONS = 64
WORDS_ONLY = Scorer.of({"words": 5.0}, -2.0)
NEAR_ONLY = Scorer.of({"near": 5.0}, -2.0)


def vector(seed: int) -> bytes:
    draw = random.Random(seed)
    return array("f", [draw.gauss(0, 1) for _ in range(DIMENSIONS)]).tobytes()


def turn(text: str, seed: int, session: str = "s") -> NewMemory:
    return NewMemory("turn", text, session, 1e9 + seed, vector(seed))


def opened(folder: Path, scorer: Scorer | None = None) -> MemoryStore:
    return MemoryStore.open(folder / "memory.sqlite", DIMENSIONS, scorer)


def texts(store: MemoryStore, user: str, question: str, seed: int = 0, k: int = 5) -> list[str]:
    return [hit.item.text for hit in store.search(user, Question(question, vector(seed), 1e9), k)]


def test_nearest_signature_comes_first(tmp_path: Path) -> None:
    store = opened(tmp_path, NEAR_ONLY)
    store.add("ann", [turn(f"Ann: number {i}", i) for i in range(500)])
    assert texts(store, "ann", "?", 321, 1) == ["Ann: number 321"]
    store.close()


def test_rare_word_comes_first_in_any_inflection_or_accent(tmp_path: Path) -> None:
    store = opened(tmp_path, WORDS_ONLY)
    store.add("ann", [turn(f"Ann: we walked around town {i}", i) for i in range(400)])
    store.add("ann", [turn("Ann: we tasted crêpes", 999)])
    for question in ("crepe?", "Who TASTES crêpes in town", "town crepes"):
        assert texts(store, "ann", question, 1, 1) == ["Ann: we tasted crêpes"]
    store.close()


def test_names_of_speakers_are_no_words_of_the_question(tmp_path: Path) -> None:
    store = opened(tmp_path, WORDS_ONLY)
    store.add("ann", [turn("Ann: hello there", 1), turn("Bob: Ann, Ann, Ann", 2), turn("Bob: a violin", 3)])
    assert texts(store, "ann", "What does Ann's violin cost?", 1, 1) == ["Bob: a violin"]
    assert set(store.speakers("ann")) == {"Ann", "Bob"}
    assert store.speakers("eve") == []
    store.close()


def test_a_namespace_never_sees_rows_words_or_speakers_of_another(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for user in ("ann", "bob", "carol"):
        store.add(user, [turn(f"{user.title()}: same words {i} here", i) for i in range(60)])
    for user in ("ann", "bob", "carol"):
        hits = store.search(user, Question("same words here 7", vector(7), 1e9), 1000)
        assert {hit.item.user for hit in hits} == {user}
        assert len(hits) == 60
        assert store.speakers(user) == [user.title()]
    assert texts(store, "dan", "same words") == []
    store.close()


def test_forgetting_the_last_memory_forgets_user_and_speaker(tmp_path: Path) -> None:
    store = opened(tmp_path)
    [id_] = store.add("zebulon", [turn("Quentin: hi", 1)])
    store.add("ann", [turn("Ann: hi", 1)])
    store.forget("zebulon", id_)
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"zebulon" not in left
    assert b"Quentin" not in left
    assert store.add("zebulon", [turn("Quentin: hi", 1)])[0] != id_
    store.close()


def test_common_words_do_not_use_up_the_postings_of_rare_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "MAX_POSTINGS", 20)
    store = opened(tmp_path, WORDS_ONLY)
    store.add("ann", [turn(f"Ann: town house garden {i}", i) for i in range(100)])
    store.add("ann", [turn("Ann: town xylophone", 999)])
    assert texts(store, "ann", "house garden town xylophone", 1, 1) == ["Ann: town xylophone"]
    store.close()


def test_features_of_candidates_have_their_ids_and_all_names(tmp_path: Path) -> None:
    store = opened(tmp_path)
    ids = store.add("ann", [turn(f"Ann: word {i}", i) for i in range(5)])
    found = store.features("ann", Question("word 3", vector(3), 1e9))
    assert set(found) == set(ids)
    assert {len(values) for values in found.values()} == {len(NAMES)}
    assert store.features("eve", Question("word", vector(3), 1e9)) == {}
    store.close()


HOSTILE = (
    "'; DROP TABLE memories; --", '"', '""', "NEAR(a b, 5)", "text:*", "a AND (b OR", "^a", "{text}: x", "a*" * 50,
    "((((" * 400, "\x00", "\ufeff", "🦜", "ﬁ ß İ", "-" * 1000, "NOT", "row:1", "memory_words",
)  # fmt: skip


@pytest.mark.parametrize("question", HOSTILE)
def test_hostile_question_is_only_words(tmp_path: Path, question: str) -> None:
    store = opened(tmp_path)
    store.add("ann", [turn("Ann: hello", 1)])
    store.add("bob", [turn("Bob: secret", 1)])
    assert texts(store, "ann", question) == ["Ann: hello"]
    assert store.stats("bob").memories == 1
    store.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(question=st.text(min_size=1, max_size=80), text=st.text(min_size=1, max_size=80))
def test_any_text_and_question_give_scores_between_0_and_1(
    tmp_path_factory: pytest.TempPathFactory, question: str, text: str
) -> None:
    store = opened(tmp_path_factory.mktemp("any"))
    store.add("ann", [turn(text, 1), turn("Ann: hello", 2)])
    hits = store.search("ann", Question(question, vector(0), 1e9), 5)
    assert sorted(hit.item.text for hit in hits) == sorted({text, "Ann: hello"})
    assert all(0 < hit.score < 1 for hit in hits)
    store.close()


def test_ten_megabytes_are_stored_and_asked_for_whole(tmp_path: Path) -> None:
    store = opened(tmp_path, WORDS_ONLY)
    huge = "filler " * 1_500_000
    store.add("ann", [turn(huge + "needle", 1), turn("Ann: other", 2)])
    assert texts(store, "ann", "needle", 2, 1) == [huge + "needle"]
    assert len(texts(store, "ann", "word " * 10_000, 2)) == 2
    store.close()

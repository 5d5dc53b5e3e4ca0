"""The second score: what matches of words tell, and what it does to what is found."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory import features, reranking
from edgeagent.agent.memory.scoring import Scorer
from edgeagent.core.errors import EngineError
from edgeagent.core.memory import MemoryHit, MemoryItem
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from tests.agent.memory.conftest import OpenMemory

BY_WORDS = Scorer.of({"word_match": 5.0}, -2.0, reranking.NAMES)
TURNS = (
    "Ann: I bought a kayak in May",
    "Bob: My knee hurts after the long walk",
    "Ann: The dentist moved to Mill Street",
    "Bob: We painted the fence green",
)


def hit(text: str, score: float) -> MemoryHit:
    item = MemoryItem(id=text, user="ann", kind="note", text=text, source="", created_at=0.0)
    return MemoryHit(item=item, score=score)


def test_best_matching_words_come_first_and_equal_ones_stay_as_they_were() -> None:
    none = (0.0,) * len(features.NAMES)
    found = [(hit("first", 0.9), none), (hit("second", 0.8), none), (hit("third", 0.7), none)]
    matches = [(0.1, 0.2), (0.9, 0.8), (0.1, 0.2)]
    got = reranking.reranked(found, matches, BY_WORDS)
    assert [each.item.id for each in got] == ["second", "first", "third"]
    assert got[1].score == got[2].score


def test_token_that_all_candidates_match_tells_nothing() -> None:
    (_, told), (_, untold) = reranking.match_features([(1.0, 0.9), (1.0, 0.1)])
    assert told > 0.85
    assert untold < 0.15


@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), max_size=5))
def test_features_are_means_of_matches(matches: list[list[float]]) -> None:
    for row, found in zip(matches, reranking.match_features(matches), strict=True):
        for value in found:
            assert min(row) - 1e-9 <= value <= max(row) + 1e-9


@pytest.mark.parametrize("matches", [[], [()], [(), ()]])
def test_nothing_to_match_is_zero(matches: list[tuple[float, ...]]) -> None:
    assert reranking.match_features(matches) == [(0.0, 0.0)] * len(matches)


def test_shipped_weights_belong_to_its_features() -> None:
    assert len(reranking.shipped().weights) == len(reranking.NAMES)


def test_recall_with_a_matcher_finds_the_same_memories_by_a_second_score(open_memory: OpenMemory) -> None:
    async def body() -> None:
        async with open_memory() as memory:
            for number, turn in enumerate((*TURNS, *(f"Ann: The weather was fine on day {i}" for i in range(30)))):
                await memory.add("ann", turn, source=f"s{number // 8}", kind="turn")
            first = await memory.search("ann", "Who has pain in the leg?", 20)
        async with open_memory(reranks=True) as memory:
            second = await memory.search("ann", "Who has pain in the leg?", 20)
        assert len(second) == 20
        assert {each.item.id for each in first[:16]} == {each.item.id for each in second[:16]}
        assert [each.item.id for each in first[16:]] == [each.item.id for each in second[16:]]
        assert second[0].item.text == TURNS[1]
        assert [each.score for each in first[:16]] != [each.score for each in second[:16]]

    asyncio.run(body())


def test_matches_are_those_of_the_words_alone_in_whatever_company(encoder: Encoder) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        words = OnnxEmbedder(locate, 384)
        try:
            texts = [*TURNS, "", "kayak"] * 8
            together = await words.match_words("kayak in May", texts)
            assert len(together) == len(texts)
            assert await words.match_words("kayak in May", [texts[0]]) == [together[0]]
            assert min(together[0]) > max(together[3])
            assert together[4] == (0.0,) * len(together[0])
            assert await words.match_words("", texts) == [()] * len(texts)
            assert await words.match_words("x", []) == []
            [vector] = await words.embed(["kayak"])
            assert len(vector) == 4 * 384
        finally:
            await words.close()

    asyncio.run(body())


def test_answer_of_another_size_is_an_error(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        words = OnnxEmbedder(locate, 384)
        try:
            await words.embed(["warm"])
            worker = words._worker
            assert worker is not None
            call = worker.call

            async def short(op: str, *args: object, **params: object) -> object:
                reply, bulk = await call(op, **params)  # type: ignore[arg-type]
                return reply, bulk[4:]

            monkeypatch.setattr(worker, "call", short)
            with pytest.raises(EngineError, match="bytes for 2 texts"):
                await words.match_words("kayak", list(TURNS[:2]))
        finally:
            await words.close()

    asyncio.run(body())

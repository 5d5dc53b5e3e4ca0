"""Recall's score for the units of a text."""

from edgeagent.agent.memory.scoring import shipped
from edgeagent.agent.memory.words import stemmer
from edgeagent.agent.relevance import Unit, matter, relevance

LOG = [
    Unit("monday", "Ann: How was your weekend?\n"),
    Unit("monday", "Bob: I repaired the pump with new seals.\n"),
    Unit("monday", "Ann: Great, and how is the garden?\n"),
    Unit("tuesday", "Bob: The roses are in bloom.\n"),
    Unit("tuesday", "Ann: Lovely!\n"),
    Unit("tuesday", "Bob: The tomatoes are ripe, too.\n"),
    Unit("tuesday", "Note: it rained.\n"),
]


def best(question: str, cosines: list[float]) -> str:
    scores = relevance(question, LOG, cosines, stemmer(), shipped())
    assert all(0 <= score <= 1 for score in scores)
    return LOG[scores.index(max(scores))].text


def test_words_decide_between_what_is_equally_near() -> None:
    assert best("What did Bob repair?", [0.3] * 7) == LOG[1].text
    assert best("Which seals were used?", [0.3] * 7) == LOG[1].text


def test_nearness_decides_where_no_word_is_shared() -> None:
    assert best("What blossoms?", [0.0, 0.0, 0.0, 0.6, 0.0, 0.1, 0.0]) == LOG[3].text


def test_matter_is_what_is_said_and_asked_without_those_who_speak() -> None:
    told = matter("What did Bob repair?", LOG)
    assert "Bob" not in told.question
    assert told.units[1] == "I repaired the pump with new seals."
    assert told.units[6] == "Note: it rained."

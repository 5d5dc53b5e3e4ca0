"""Since when all of a conversation was seen here."""

from edgeagent.agent.sightings import MAX_SIGHTINGS, Sightings
from edgeagent.core.chat import Message


def said(*texts: str) -> list[Message]:
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts)]


def test_conversation_is_followed_from_its_first_question_on() -> None:
    sightings = Sightings()
    assert sightings.begun("ann", said("Hi"), 2) == 2
    sightings.answered("ann", said("Hi"), "Hello,\n Ann. ", 2)
    second = said("Hi", "Hello, Ann.", "Who is Bob?")
    assert sightings.begun("ann", second, 3) == 2
    assert sightings.begun("bob", second, 3) is None
    sightings.answered("ann", second, "A friend.", 2)
    assert (
        sightings.begun("ann", [Message(role="system", content="Be kind."), *second, *said("", "A friend.")[1:]], 3)
        == 2
    )


def test_conversation_that_was_answered_elsewhere_or_before_is_not_known() -> None:
    sightings = Sightings()
    sightings.answered("ann", said("Hi"), "Hello.", 1)
    assert sightings.begun("ann", said("Hi", "Hello, you told me of Clara.", "Who is she?"), 1) is None
    unknown = said("Hi", "Good day.", "Who is Bob?")
    sightings.answered("ann", unknown, "A friend.", sightings.begun("ann", unknown, 1))
    assert sightings.begun("ann", [*unknown, *said("", "A friend.", "Really?")[1:]], 1) is None


def test_oldest_sightings_are_lost_first() -> None:
    sightings = Sightings()
    for number in range(MAX_SIGHTINGS + 1):
        sightings.answered("ann", said(f"Question {number}?"), "Yes.", 0)
    assert sightings.begun("ann", said("Question 0?", "Yes.", "Sure?"), 1) is None
    assert sightings.begun("ann", said("Question 1?", "Yes.", "Sure?"), 1) == 0

"""What is remembered without being told to."""

import pytest

from edgeagent.agent.telling import MAX_CHARS, MAX_KEPT, told


@pytest.mark.parametrize(
    "message",
    [
        "What is the capital of France?",
        "Please summarise my document in two sentences.",
        "Tell me about my garden.",
        "How old is my sister Clara?",
        "I want you to write a poem about our house.",
        "Hello there.",
        "The sky is blue over there.",
        "My dog. " * 200,
    ],
)
def test_questions_requests_and_long_texts_tell_nothing(message: str) -> None:
    assert told(message) == []


def test_what_users_tell_of_themselves_is_kept_without_the_question_behind_it() -> None:
    assert told("My sister Clara lives in Lisbon. What is the weather there?") == ["My sister Clara lives in Lisbon."]
    assert told("I am allergic to peanuts, so no satay.") == ["I am allergic to peanuts, so no satay."]
    many = told(" ".join(f"My cat number {n} is grey." for n in range(9)))
    assert len(many) == MAX_KEPT
    assert all(len(text) <= MAX_CHARS for text in many)

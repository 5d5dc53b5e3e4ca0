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
        "Summarise this mail.\nI have moved to Oslo and my new flat is small.",
        "Translate to French: I have a dog and my cat is old.",
        'He said "my brother is in prison" to us.',
        "We read 'my brother is in prison' in the paper.",
        "My password for the mail is hunter2.",
        "My bank card's PIN is 1234.",
        "Our alarm code is 4711 at the moment.",
        "My phone number is 030 1234567, call there.",
        "I have got sk-a8f3kd93kfd02k from them.",
    ],
)
def test_questions_requests_and_long_texts_tell_nothing(message: str) -> None:
    assert told(message) == []


def test_what_users_tell_of_themselves_is_kept_without_the_question_behind_it() -> None:
    assert told("My sister Clara lives in Lisbon. What is the weather there?") == ["My sister Clara lives in Lisbon."]
    assert told("My birthday is 12.05.1990, in spring.") == ["My birthday is 12.05.1990, in spring."]
    assert told("I am allergic to peanuts, so no satay.") == ["I am allergic to peanuts, so no satay."]
    many = told(" ".join(f"My cat number {n} is grey." for n in range(9)))
    assert len(many) == MAX_KEPT
    assert all(len(text) <= MAX_CHARS for text in many)

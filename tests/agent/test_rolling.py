"""Where a summary stands for old turns."""

from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.rolling import KEPT_QUESTIONS, cuts, key_of, lines_of, with_summary
from edgeagent.agent.summary import LEAD, summary_in, to_sum_up
from edgeagent.core.chat import Message


def conversation(num_questions: int, *, system: bool = True) -> list[Message]:
    said = [Message(role="system", content="Be kind.")] if system else []
    for number in range(num_questions):
        said.append(Message(role="user", content=f"Question {number}?"))
        if number < num_questions - 1:
            said.append(Message(role="assistant", content=f"Answer {number}."))
    return said


@given(st.integers(0, 20), st.booleans())
def test_cuts_leave_the_newest_questions_and_begin_with_a_question(num_questions: int, system: bool) -> None:
    messages = conversation(num_questions, system=system)
    for cut in cuts(messages):
        assert messages[cut.num_messages].role == "user"
        assert sum(m.role == "user" for m in messages[cut.num_messages :]) >= KEPT_QUESTIONS
        assert cut.key == key_of(messages[: cut.num_messages])


def test_the_next_request_of_a_conversation_finds_the_same_cut() -> None:
    earlier, later = cuts(conversation(6)), cuts(conversation(7))
    assert earlier[0].num_messages == later[0].num_messages == 9
    assert earlier[0].key == later[0].key == cuts(conversation(8))[1].key


def test_summary_stands_before_the_first_question_that_is_kept_and_instructions_stay() -> None:
    messages = conversation(6)
    cut = cuts(messages)[0]
    shown = with_summary(messages, cut.num_messages, "They met.")
    assert [m.role for m in shown] == ["system", *(m.role for m in messages[cut.num_messages :])]
    assert shown[1].content == f"{LEAD}They met.\n\nQuestion 4?"
    asked = to_sum_up(lines_of(messages[: cut.num_messages]), "Before that.")
    assert "Before that." in asked[1].content
    assert "user: Question 3?" in asked[1].content
    assert "Be kind." not in asked[1].content


def test_answer_of_a_few_words_is_no_summary() -> None:
    assert summary_in(" They met\n in June,  at last. ") == "They met in June, at last."
    assert summary_in("See you on Friday.") is None

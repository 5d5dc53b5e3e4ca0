"""A request that names no limit is answered until the context is full: nothing is refused or left out for a default."""

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.core.chat import ChatRequest, Document, Extension
from edgeagent.core.errors import ContextLengthError
from edgeagent.core.generation import Sampling
from edgeagent.execution.embedding import Encoder
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.test_context_shift import CONTEXT, FACTS, answer, conversation, user, with_answerer

ON_AND_ON = Sampling(grammar='root ::= [a-z ]+ "#"')
"""An answer that a small model does not end by itself: it has to write a sign that it never does."""


async def words_for(answerer: Answerer, resident: Resident, num_tokens: int) -> str:
    """A question whose prompt has so many tokens."""
    short = await answer(answerer, resident, ChatRequest(messages=(user(" a" * 100),), max_tokens=1))
    return " a" * (num_tokens - short.usage.prompt_tokens + 100)


@pytest.mark.parametrize("room", [1, 7, 40])
def test_prompt_that_leaves_room_for_a_word_is_answered_with_as_much(
    smollm2: StoredVariant, encoder: Encoder, room: int
) -> None:
    async def use(answerer: Answerer, resident: Resident) -> None:
        asked = user(await words_for(answerer, resident, CONTEXT - room))
        request = ChatRequest(messages=(asked,), sampling=ON_AND_ON, edgeagent=Extension(reduce="L0"))
        finished = await answer(answerer, resident, request)
        assert finished.usage.prompt_tokens == CONTEXT - room
        assert finished.usage.completion_tokens == room
        assert finished.reason == "length"
        assert any(f"context of {CONTEXT} tokens is full" in note for note in finished.report.notes)
        with pytest.raises(ContextLengthError):
            await answer(answerer, resident, request.model_copy(update={"max_tokens": room + 1}))

    with_answerer(smollm2, encoder, use)


def test_documents_and_turns_that_fit_are_kept_when_no_limit_is_named(smollm2: StoredVariant, encoder: Encoder) -> None:
    document = Document(source="mill.txt", text="\n".join(f"In {1800 + n} it ground {n} sacks." for n in range(40)))
    one = ChatRequest(messages=(user("How many sacks in 1807?"),), documents=(document,))
    many = ChatRequest(messages=(*conversation(7), user("When did it burn down?")))

    async def use(answerer: Answerer, resident: Resident) -> None:
        for request in (one, many):
            finished = await answer(answerer, resident, request)
            assert CONTEXT - 512 < finished.usage.prompt_tokens < CONTEXT
            assert finished.report.reduction.level == "L0"
            assert not finished.report.reduction.dropped

    with_answerer(smollm2, encoder, use)


@pytest.mark.long
def test_answer_without_a_limit_goes_on_until_the_context_is_full(smollm2: StoredVariant, encoder: Encoder) -> None:
    request = ChatRequest(messages=(user("Write about the mill. " + FACTS),), sampling=ON_AND_ON)

    async def use(answerer: Answerer, resident: Resident) -> None:
        finished = await answer(answerer, resident, request)
        assert finished.usage.completion_tokens == CONTEXT - finished.usage.prompt_tokens > 512
        assert finished.reason == "length"
        assert any("is full" in note for note in finished.report.notes)

    with_answerer(smollm2, encoder, use)

"""A conversation that outgrows the context loses its oldest questions as wholes, and says so."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.answering import Answerer
from edgeagent.agent.context_shift import MESSAGE_TOKENS, Shifted, shift
from edgeagent.agent.drafting import Material
from edgeagent.agent.layout import Layout
from edgeagent.agent.prompting import question_of, system_of
from edgeagent.agent.situation import Surroundings
from edgeagent.core.chat import ChatRequest, Document, Extension, Message, ToolCall
from edgeagent.core.config import ModelsConfig, PolicyConfig
from edgeagent.core.errors import ContextLengthError
from edgeagent.core.events import Finished
from edgeagent.core.hardware import Rates
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.execution.local import LoadSettings, LocalModel
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.machine import REPACKS

CONTEXT = 1024
FACTS = "The mill was built in 1802, burnt down in 1840, and has been a school since then. " * 2


def user(text: str) -> Message:
    return Message(role="user", content=text)


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def conversation(num_turns: int) -> list[Message]:
    turns = [(user(f"Question {n}: {FACTS}"), said(f"Answer {n}. {FACTS}")) for n in range(num_turns)]
    return [Message(role="system", content="You are kind."), *(m for pair in turns for m in pair)][: 2 * num_turns]


def counts_of(messages: Sequence[Message]) -> list[int]:
    return [len(message.content) // 4 for message in messages]


def test_conversation_that_fits_is_left_alone() -> None:
    messages = conversation(3)
    assert shift(messages, counts_of(messages), 4096) is None


def test_oldest_questions_go_with_their_answers_and_instructions_stay() -> None:
    messages = conversation(12)
    left = shift(messages, counts_of(messages), 600)
    assert left is not None
    assert left.messages[0] == messages[0]
    assert left.messages[1:] == tuple(messages[-len(left.messages) + 1 :])
    assert left.messages[1].role == "user"
    assert (left.num_messages, left.num_questions) == (2 * left.num_questions, left.num_questions)
    assert left.num_messages == len(messages) - len(left.messages)


def test_tool_call_and_its_result_go_or_stay_together() -> None:
    call = ToolCall(id="1", name="look_up", arguments="{}")
    turn = [user("When? " + FACTS), Message(role="assistant", tool_calls=(call,)),
            Message(role="tool", content=FACTS, tool_call_id="1"), said("In 1802.")]  # fmt: skip
    messages = [*turn * 8, user("And today?")]
    left = shift(messages, counts_of(messages), 400)
    assert left is not None
    assert left.num_messages % 4 == 0
    assert left.messages[-1] == messages[-1]


def test_newest_question_stays_even_when_it_does_not_fit() -> None:
    messages = [user("old"), said("yes"), user(FACTS * 40)]
    assert shift(messages, counts_of(messages), 100) == Shifted((messages[2],), 2, 1)
    assert shift(messages[2:], counts_of(messages[2:]), 100) is None


def test_what_recall_adds_to_the_newest_question_counts() -> None:
    messages = conversation(4)
    counts = counts_of(messages)
    room = sum(counts) + MESSAGE_TOKENS * len(messages) + 200
    assert shift(messages, counts, room) is None
    assert shift(messages, counts, room, prompt_tokens=room + 1) is not None


SIZES = st.lists(st.integers(1, 120), min_size=1, max_size=40)


@given(sizes=SIZES, room=st.integers(300, 1200))
def test_beginning_stays_the_same_until_the_room_is_full_again(sizes: list[int], room: int) -> None:
    """And each shift frees so much that the next questions do not shift again."""
    messages = [user(str(i)) if i % 2 == 0 else said(str(i)) for i in range(len(sizes))]
    before = 0
    for end in range(1, len(messages) + 1, 2):
        left = shift(messages[:end], sizes[:end], room)
        first = left.num_messages if left else 0
        used = sum(sizes[first:end]) + MESSAGE_TOKENS * (end - first)
        assert used <= room or first == end - 1
        assert first >= before
        if first > before:
            assert used <= 0.6 * room or first == end - 1
            overflow = sum(sizes[before:end]) + MESSAGE_TOKENS * (end - before)
            assert overflow > 0.9 * room
        before = first


def with_answerer(
    smollm2: StoredVariant,
    encoder: Encoder,
    use: Callable[[Answerer, Resident], Awaitable[None]],
    models: ModelsConfig = ModelsConfig(context_tokens=CONTEXT),  # noqa: B008  (frozen)
) -> None:
    settings = LoadSettings(
        str(smollm2.path), smollm2.sha256, CONTEXT, "q8_0", flash_attention=True, threads=1, extra_buffers=REPACKS,
        chunk_tokens=64,
    )  # fmt: skip

    async def locate() -> Encoder:
        return encoder

    async def body() -> None:
        embedder, model = OnnxEmbedder(locate, 384), LocalModel(settings)
        rates = Rates(prefill_tok_s=1000, decode_tok_s=100)
        resident = Resident(smollm2.card, smollm2.variant, "for the test", rates, 10**9, model, 0.0)
        surroundings = Surroundings(PolicyConfig(), models, None)
        try:
            await use(Answerer(surroundings, embedder), resident)
        finally:
            await model.close()
            await embedder.close()

    asyncio.run(body())


async def answer(answerer: Answerer, resident: Resident, request: ChatRequest) -> Finished:
    messages = request.messages
    material = Material(
        messages, request.documents, [], question_of(messages), Layout(system_of(messages)), {0: ["a"], 13: ["b"]}
    )
    events = [event async for event in answerer.answer(request, material, resident, None, 0.0)]
    assert isinstance(events[-1], Finished)
    return events[-1]


def test_long_conversation_is_answered_and_the_report_says_what_went(smollm2: StoredVariant, encoder: Encoder) -> None:
    messages = (*conversation(14), user("When did it burn down?"))
    request = ChatRequest(messages=messages, max_tokens=16)

    async def use(answerer: Answerer, resident: Resident) -> None:
        report = (await answer(answerer, resident, request)).report
        [gone] = report.reduction.dropped
        assert gone.source == "conversation"
        assert gone.tokens == report.reduction.tokens_in - report.reduction.tokens_kept > 0
        assert "oldest" in gone.reason
        assert report.reduction.tokens_kept <= CONTEXT - 16
        assert report.memory.earlier == ("b",)
        with pytest.raises(ContextLengthError, match="1024"):
            await answer(answerer, resident, request.model_copy(update={"edgeagent": Extension(reduce="L0")}))

    with_answerer(smollm2, encoder, use)


def test_documents_are_reduced_before_the_conversation_is(smollm2: StoredVariant, encoder: Encoder) -> None:
    document = Document(
        source="mill.txt", text="\n".join(f"In {1800 + n} the mill ground {n} sacks." for n in range(120))
    )
    request = ChatRequest(
        messages=(user("Hello."), said("Hello."), user("How many sacks in 1807?")), documents=(document,), max_tokens=16
    )

    async def use(answerer: Answerer, resident: Resident) -> None:
        reduction = (await answer(answerer, resident, request)).report.reduction
        assert reduction.level == "L2"
        assert {dropped.source for dropped in reduction.dropped} == {"mill.txt"}

    with_answerer(smollm2, encoder, use)


def test_answer_that_fills_the_context_says_so(smollm2: StoredVariant, encoder: Encoder) -> None:
    request = ChatRequest(messages=(user("Write about the mill at length. " + FACTS * 17),))

    async def use(answerer: Answerer, resident: Resident) -> None:
        finished = await answer(answerer, resident, request)
        assert finished.usage.prompt_tokens + finished.usage.completion_tokens <= CONTEXT
        full = finished.usage.prompt_tokens + finished.usage.completion_tokens == CONTEXT
        assert (finished.reason == "length") == full == any("1024 tokens is full" in n for n in finished.report.notes)

    with_answerer(smollm2, encoder, use)

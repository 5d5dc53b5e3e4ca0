"""Requests for reduction L1, L3 and L4, and what `auto` offers: real model, real encoder, real memory."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from edgeagent.agent.answering import Answerer
from edgeagent.agent.drafting import Material
from edgeagent.agent.layout import Layout
from edgeagent.agent.measuring import measure
from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.prompting import question_of, system_of
from edgeagent.agent.rolling import cuts
from edgeagent.agent.stored import Stored
from edgeagent.agent.summing import sum_up
from edgeagent.core.chat import ChatRequest, Document, Extension, Message
from edgeagent.core.events import Finished
from edgeagent.core.plan import AnswerReport
from edgeagent.execution.admission import USUAL
from edgeagent.execution.embedding import Encoder, OnnxEmbedder
from edgeagent.model.repeats import NEAR
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from edgeagent.model.word_pruning import EASY_TO_GUESS
from tests.agent.test_context_shift import with_answerer

BOOK = "".join(f"In {1800 + n} the mill of Hagen ground {n * 37 % 91} sacks of the best rye.\n\n" for n in range(24))
MILL = Document(
    source="mill.txt", text=f"# Mill\n\n{BOOK}In 1807, the mill of Hagen ground 77 sacks of the best rye.\n\n"
)
QUESTION = "How many sacks were ground in 1807?"
OLD = "The mill stood by the river and had two wheels, and the miller was called Hagen. " * 3

Use = Callable[[Answerer, Resident, Memory], Awaitable[None]]


def with_memory(smollm2: StoredVariant, encoder: Encoder, folder: Path, use: Use) -> None:
    async def locate() -> Encoder:
        return encoder

    async def body(answerer: Answerer, resident: Resident) -> None:
        embedder = OnnxEmbedder(locate, 384)
        memory = await Memory.open(folder / "memory.sqlite", embedder, lambda: 1.7e9)
        try:
            await use(answerer, resident, memory)
        finally:
            await memory.close()
            await embedder.close()

    with_answerer(smollm2, encoder, body, extra_buffers=False)


async def report_of(
    answerer: Answerer,
    resident: Resident,
    level: str,
    *,
    messages: tuple[Message, ...] = (Message(role="user", content=QUESTION),),
    documents: tuple[Document, ...] = (MILL,),
    memory: Memory | None = None,
    earlier: Mapping[int, Sequence[str]] | None = None,
) -> AnswerReport:
    wish = Extension.model_validate({"reduce": level})
    request = ChatRequest(messages=messages, documents=documents, max_tokens=4, edgeagent=wish)
    stored = Stored(memory, "ann") if memory else None
    layout = Layout(system_of(messages))
    asked = question_of(messages)
    material = Material(messages, documents, [], asked, layout, earlier or {}, said=messages, stored=stored)
    async with contextlib.aclosing(answerer.answer(request, material, resident, None, 0.0)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.report
    raise AssertionError("the answer did not finish")


def levels(report: AnswerReport) -> list[str]:
    assert report.decision
    return [candidate.reduction for candidate in report.decision.candidates]


def talk(num_questions: int) -> tuple[Message, ...]:
    said = []
    for number in range(num_questions):
        said += [
            Message(role="user", content=f"{OLD} Year {1800 + number}?"),
            Message(role="assistant", content="They ground rye."),
        ]
    return (*said, Message(role="user", content=QUESTION))


def test_repeats_are_left_out_where_they_are_and_reported(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(answerer: Answerer, resident: Resident, memory: Memory) -> None:
        reduction = (await report_of(answerer, resident, "L1")).reduction
        [gone] = reduction.dropped
        assert (reduction.level, gone.source, gone.reason) == ("L1", "mill.txt", NEAR)
        assert 0 < gone.tokens < 40
        assert abs(reduction.tokens_in - gone.tokens - reduction.tokens_kept) <= 2
        short = Document(source="short.txt", text="Nothing much.")
        for level in ("L1", "L3", "L4"):
            report = await report_of(answerer, resident, level, documents=(short,), memory=memory)
            assert (report.reduction.level, report.reduction.dropped) == ("L0", ())
            assert any(f"reduction {level} dropped nothing" in note for note in report.notes)

    with_memory(smollm2, encoder, tmp_path, use)


def test_words_are_measured_once_and_dropped_for_nothing_later(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(answerer: Answerer, resident: Resident, memory: Memory) -> None:
        local = resident.whole
        asked = (await report_of(answerer, resident, "L3", memory=memory)).reduction
        selected = (await report_of(answerer, resident, "L2", memory=memory)).reduction
        assert asked.level == "L3"
        assert asked.tokens_kept < selected.tokens_kept
        assert EASY_TO_GUESS in {gone.reason for gone in asked.dropped}
        assert "L3" not in levels(await report_of(answerer, resident, "auto", memory=memory))
        ids = await memory.add_document("ann", MILL.text, MILL.source)
        assert await measure(memory, local, "smollm2-135m-instruct", 100) == len(ids)
        assert await measure(memory, local, "smollm2-135m-instruct", 100) == 0
        assert "L3" in levels(await report_of(answerer, resident, "auto", memory=memory))
        again = (await report_of(answerer, resident, "L3", memory=memory)).reduction
        assert again.tokens_kept < selected.tokens_kept
        await memory.forget("ann", ids[0])
        [gone] = await memory.measures("ann", [MILL.text])
        assert gone is None

    with_memory(smollm2, encoder, tmp_path, use)


def test_old_turns_become_a_summary_that_serves_the_next_requests(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    async def use(answerer: Answerer, resident: Resident, memory: Memory) -> None:
        messages = talk(5)
        key = cuts(messages)[0].key
        before = await report_of(answerer, resident, "auto", messages=messages, documents=(), memory=memory)
        assert levels(before) == ["L0"]
        shown = {0: ["old"], 4: ["new"]}
        report = await report_of(
            answerer, resident, "L4", messages=messages, documents=(), memory=memory, earlier=shown
        )
        assert report.memory.earlier == ("new",)
        [gone] = report.reduction.dropped
        assert report.reduction.level == "L4"
        assert gone.source == "conversation"
        assert "summary" in gone.reason
        assert gone.tokens == report.reduction.tokens_in - report.reduction.tokens_kept > 100
        assert await memory.summary("ann", key)
        assert await memory.summary("bob", key) is None
        later = await report_of(answerer, resident, "auto", messages=messages, documents=(), memory=memory)
        assert levels(later) == ["L0", "L4"]
        assert later.reduction.level == "L0"
        pasted = (messages[0].model_copy(update={"content": OLD * 200}), *messages[1:])
        assert await sum_up(pasted, cuts(pasted), resident, None, USUAL)
        await memory.forget("ann", await memory.add("ann", "The miller was called Hagen."))
        assert await memory.summary("ann", key) is None

    with_memory(smollm2, encoder, tmp_path, use)

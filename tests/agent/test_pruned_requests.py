"""Requests for reduction L5: what they report, that they end when a worker dies, and where they are refused."""

import contextlib
import os
import signal

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.agent.drafting import LEAST_ATTENDED, Material
from edgeagent.agent.layout import Layout
from edgeagent.agent.prompting import question_of, system_of
from edgeagent.core.chat import ChatRequest, Document, Extension, Message
from edgeagent.core.errors import NoPlanError
from edgeagent.core.events import Finished, Text
from edgeagent.execution.embedding import Encoder
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.test_context_shift import with_answerer

KEY = "48213"
BOOK = "".join(f"In {1800 + n} the mill ground {n * 37 % 91} sacks.\n" for n in range(40))
MILL = Document(source="mill.txt", text=f"{BOOK[:500]}The pass key is {KEY}.\n{BOOK[500:]}")


def request(question: str, document: Document | None = MILL, **wish: str) -> ChatRequest:
    extension = Extension.model_validate({"reduce": "L5", **wish})
    return ChatRequest(
        messages=(Message(role="user", content=question),),
        documents=(document,) if document else (),
        max_tokens=16,
        edgeagent=extension,
    )


async def answer(
    answerer: Answerer, resident: Resident, asked: ChatRequest, *, is_killed: bool = False
) -> tuple[str, Finished]:
    """The worker is killed, if it is to be, at the first word."""
    material = Material(
        asked.messages, asked.documents, [], question_of(asked.messages), Layout(system_of(asked.messages))
    )
    text = ""
    async with contextlib.aclosing(answerer.answer(asked, material, resident, None, 0.0)) as events:
        async for event in events:
            if isinstance(event, Text):
                if is_killed and not text:
                    assert resident.pid
                    os.kill(resident.pid, signal.SIGKILL)
                text += event.text
            elif isinstance(event, Finished):
                return text, event
    raise AssertionError("the answer did not finish")


def test_pruned_answer_is_reported_and_ends_the_same_when_its_worker_dies(
    smollm2: StoredVariant, encoder: Encoder
) -> None:
    asked = request("What is the pass key in the text?")

    async def use(answerer: Answerer, resident: Resident) -> None:
        text, finished = await answer(answerer, resident, asked)
        report = finished.report
        assert KEY in text
        [dropped] = report.reduction.dropped
        assert (report.reduction.level, report.plan, dropped.reason) == ("L5", "local", LEAST_ATTENDED)
        assert report.reduction.tokens_in == finished.usage.prompt_tokens
        assert dropped.tokens == report.reduction.tokens_in // 2
        assert report.reduction.tokens_kept == report.reduction.tokens_in - dropped.tokens
        assert [note for note in report.notes if f"{dropped.tokens} positions" in note and "identical" in note]
        assert report.drafted_tokens == 0
        again, resumed = await answer(answerer, resident, asked, is_killed=True)
        assert again == text
        assert len(resumed.report.handover) == 1
        assert resumed.report.notes == report.notes

    with_answerer(smollm2, encoder, use)


def test_what_cannot_be_pruned_is_refused_or_said(smollm2: StoredVariant, encoder: Encoder) -> None:
    async def use(answerer: Answerer, resident: Resident) -> None:
        _, finished = await answer(answerer, resident, request("What is a mill?", None))
        assert (finished.report.reduction.level, finished.report.reduction.dropped) == ("L0", ())
        assert any("L5 dropped nothing" in note for note in finished.report.notes)
        with pytest.raises(NoPlanError, match="no peer"):
            await answer(answerer, resident, request("What is the pass key?", plan="remote"))

    with_answerer(smollm2, encoder, use)

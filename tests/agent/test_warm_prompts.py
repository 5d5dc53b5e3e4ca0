"""The planner knows which part of a prompt is in the cache here: a second turn is predicted as fast as it is."""

import asyncio
import time
from dataclasses import replace

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.core.chat import ChatRequest, Message
from edgeagent.core.events import Finished
from edgeagent.core.plan import Candidate
from edgeagent.execution.embedding import Encoder
from edgeagent.execution.kvstore.store import KvLimits, KvStore
from edgeagent.execution.local import LocalModel
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.test_context_shift import FACTS, answer, said, user, with_answerer

KEPT_S = 1.0
"""After an answer its last cells are kept within so long."""


def local(finished: Finished) -> Candidate:
    decision = finished.report.decision
    assert decision is not None
    return decision.chosen


async def two_turns(answerer: Answerer, resident: Resident) -> tuple[Finished, Finished, Finished]:
    """A question, the next one of the same conversation, and one of another."""
    asked: tuple[Message, ...] = (user("When did the mill burn down? " + FACTS * 8),)
    first = await answer(answerer, resident, ChatRequest(messages=asked, max_tokens=12))
    await asyncio.sleep(KEPT_S)
    asked = (*asked, said("In 1840."), user("And what is it now?"))
    second = await answer(answerer, resident, ChatRequest(messages=asked, max_tokens=4))
    other = await answer(answerer, resident, ChatRequest(messages=(user("Bees. " + FACTS * 8),), max_tokens=1))
    return first, second, other


def check(first: Finished, second: Finished, other: Finished) -> None:
    assert local(first).warm_tokens == 0
    assert "in the cache" not in first.report.why
    warm = local(second).warm_tokens
    assert first.usage.prompt_tokens - 64 <= warm <= second.report.reused_tokens < second.usage.prompt_tokens
    assert f"with {warm} prompt tokens already in the cache" in second.report.why
    assert local(second).ttft_s < local(first).ttft_s / 3
    assert local(other).warm_tokens <= other.report.reused_tokens + 64
    assert local(other).ttft_s > local(second).ttft_s


@pytest.mark.parametrize("is_kept", [True, False])
def test_second_turn_is_predicted_to_begin_sooner(smollm2: StoredVariant, encoder: Encoder, is_kept: bool) -> None:
    """By the kept cells, and without a store of them by what the worker holds."""

    async def use(answerer: Answerer, resident: Resident) -> None:
        store = KvStore(None, KvLimits(2**28, 0), time.time) if is_kept else None
        model = LocalModel(resident.local.settings, store=store)
        try:
            check(*await two_turns(answerer, replace(resident, local=model)))
        finally:
            await model.close()
            if store:
                store.close()

    with_answerer(smollm2, encoder, use)

"""The owner's limit of memory reaches the planner, and does not stand in the way of what keeps to it."""

import pytest

from edgeagent.agent.answering import Answerer
from edgeagent.core.chat import ChatRequest
from edgeagent.core.config import ModelsConfig
from edgeagent.core.errors import NoPlanError
from edgeagent.execution.embedding import Encoder
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.test_context_shift import CONTEXT, answer, user, with_answerer

HELD = 10**9
"""What the resident of these tests is forecast to take."""


@pytest.mark.parametrize("limit", [0, HELD, HELD - 10**7])
def test_model_over_the_limit_is_no_candidate(smollm2: StoredVariant, encoder: Encoder, limit: int) -> None:
    request = ChatRequest(messages=(user("Hello."),), max_tokens=2)

    async def use(answerer: Answerer, resident: Resident) -> None:
        assert resident.memory_bytes == HELD
        if limit in (0, HELD):
            assert (await answer(answerer, resident, request)).report.decision
            return
        with pytest.raises(NoPlanError, match="needs 1,000 MB of memory and may use 990 MB"):
            await answer(answerer, resident, request)

    with_answerer(smollm2, encoder, use, ModelsConfig(context_tokens=CONTEXT, memory_limit_bytes=limit))

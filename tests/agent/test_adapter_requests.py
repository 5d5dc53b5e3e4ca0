"""A request that names a LoRA adapter: answered with it, on this machine only, and the report says so."""

from functools import partial
from pathlib import Path

import pytest

from edgeagent.agent.answering import Answerer, adapter_of
from edgeagent.core.chat import ChatRequest, Extension, Message
from edgeagent.core.errors import ModelNotFoundError, NoPlanError
from edgeagent.core.plan import PlanKind
from edgeagent.execution.embedding import Encoder
from edgeagent.model.resident import Resident
from edgeagent.model.store import StoredVariant
from tests.agent.test_context_shift import answer, with_answerer
from tests.execution import adapters
from tests.model.test_adapters import ID, listing, store_of

QUESTION = ChatRequest(messages=(Message(role="user", content="Name a colour."),), max_tokens=12)


def asking(name: str, plan: str = "auto") -> ChatRequest:
    return QUESTION.model_copy(update={"edgeagent": Extension.model_validate({"adapter": name, "plan": plan})})


def test_report_names_the_adapter_and_an_unknown_one_is_an_error(
    smollm2: StoredVariant, encoder: Encoder, tmp_path: Path
) -> None:
    store = store_of(tmp_path, card := listing("brief"))
    path = store.path(card, card.adapters[0])
    path.parent.mkdir(parents=True)
    adapters.write(path)

    async def use(answerer: Answerer, resident: Resident) -> None:
        resident.find_adapter = partial(store.adapter, ID, "Q4_1")
        plain = (await answer(answerer, resident, QUESTION)).report
        report = (await answer(answerer, resident, asking("brief"))).report
        assert (plain.adapter, report.adapter, report.plan) == (None, "brief", PlanKind.LOCAL)
        with pytest.raises(ModelNotFoundError, match="its card lists brief"):
            await answer(answerer, resident, asking("rude"))
        with pytest.raises(NoPlanError):
            await answer(answerer, resident, asking("brief", "remote"))

    with_answerer(smollm2, encoder, use)


def test_adapter_of_a_model_that_only_peers_have_is_an_error(smollm2: StoredVariant, encoder: Encoder) -> None:
    async def use(answerer: Answerer, resident: Resident) -> None:
        with pytest.raises(ModelNotFoundError, match="not asked of peers"):
            await adapter_of(asking("brief").model_copy(update={"model": "qwen3-4b"}), resident)

    with_answerer(smollm2, encoder, use)

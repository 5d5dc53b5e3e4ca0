"""Penalties, bias, log-probabilities and grammars through the worker: stateless, so that any journal goes on alike."""

import contextlib
from typing import TYPE_CHECKING

import pytest

from edgeagent.core.errors import RequestError
from edgeagent.core.generation import Generation, Sampling, TokenStep
from edgeagent.execution.executors import PeerModel, step_of, token_of
from edgeagent.execution.local import LocalModel
from edgeagent.wire.messages import Token, decode_message, encode_message
from tests.execution.test_local import STORY, generation_for, with_model

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

LIST = 'root ::= "[" word ("," " " word)* "]"\nword ::= [a-z]{1,9}'
ALL = Sampling(
    seed=11, repetition_penalty=1.2, presence_penalty=0.6, frequency_penalty=0.4, penalty_window=24,
    logit_bias=((28, -4.0), (339, 2.0)), logprobs=3,
)  # fmt: skip


async def steps_of(model: LocalModel, generation: Generation) -> list[TokenStep]:
    async with contextlib.aclosing(model.generate(generation)) as events:
        return [event async for event in events if isinstance(event, TokenStep)]


@pytest.mark.parametrize(
    "sampling",
    [
        ALL,
        ALL.model_copy(update={"temperature": 0.9}),
        ALL.model_copy(update={"temperature": 1.2, "grammar": LIST}),
        ALL.model_copy(update={"grammar": LIST, "min_p": 0.0}),
    ],
    ids=["greedy", "drawn", "drawn in a grammar", "greedy in a grammar"],
)
def test_answer_resumed_from_its_journal_goes_on_alike_with_penalties_and_bias(
    smollm2: "StoredVariant", sampling: Sampling
) -> None:
    async def use(model: LocalModel) -> None:
        generation = await generation_for(model, "Name some animals.", sampling, max_tokens=20)
        whole = await steps_of(model, generation)
        places = sorted({1, 2, 5, 9, len(whole) - 1} & set(range(len(whole))))
        assert len(places) > 2
        for at in places:
            journal = generation
            for step in whole[:at]:
                journal = journal.extended(step.token)
            if at == places[1]:
                await model.close()  # and another worker goes on
            rest = await steps_of(model, journal)
            assert [s.token for s in rest] == [s.token for s in whole[at:]]
            assert [s.top for s in rest] == [s.top for s in whole[at:]]

    with_model(smollm2, use)


def test_penalties_change_what_is_said(smollm2: "StoredVariant") -> None:
    async def use(model: LocalModel) -> None:
        plain, penalised = [
            [s.token for s in await steps_of(model, await generation_for(model, STORY, sampling, max_tokens=60))]
            for sampling in (Sampling(), Sampling(frequency_penalty=2, presence_penalty=2, penalty_window=200))
        ]
        assert len(set(penalised)) / len(penalised) > len(set(plain)) / len(plain)

    with_model(smollm2, use)


def test_bias_outside_the_vocabulary_is_refused_and_the_worker_lives(smollm2: "StoredVariant") -> None:
    async def use(model: LocalModel) -> None:
        generation = await generation_for(model, "Hi.", Sampling(logit_bias=((49_152, 1.0),)))
        pid = model.pid
        with pytest.raises(RequestError, match="logit_bias"):
            await steps_of(model, generation)
        assert await model.count(["still here"]) == [2]
        assert model.pid == pid

    with_model(smollm2, use)


def test_logprobs_survive_the_wire(smollm2: "StoredVariant") -> None:
    async def use(model: LocalModel) -> None:
        for step in await steps_of(model, await generation_for(model, "Hi.", ALL, max_tokens=3)):
            assert step.logprob is not None
            assert len(step.top) == 3
            message = decode_message(encode_message(token_of(step)))
            assert isinstance(message, Token)
            assert step_of(message, PeerModel("garage", "", "0" * 64, "", num_vocab=60_000), step.position) == step

    with_model(smollm2, use)


def test_token_without_logprobs_says_nothing_of_them() -> None:
    assert b"top" not in encode_message(token_of(TokenStep(0, 1, b"a")))

"""The embedded model under random schemas: every answer is valid, judged by another's validator."""

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgeagent.agent.grammar import answer_grammar
from edgeagent.agent.language.gbnf import completion
from edgeagent.agent.textstream import TextStream
from edgeagent.core.chat import JsonObject
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama import prompt
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.sampler import Sampler
from tests.agent.language.schemas import answer_schemas

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

MAX_TOKENS = 64


class Writer:
    """Answers one question under any grammar, and counts how the answers ended."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._context = Context(model, ContextSettings(256, "q8_0", flash_attention=True, threads=1, chunk_tokens=64))
        question = [{"role": "user", "content": "Describe a shop in Lyon as JSON."}]
        self._prompt, _ = prompt.encode(model, question)
        self.num_stopped = self.num_closed = 0

    def answer(self, grammar: str, temperature: float) -> str:
        sampler = Sampler(self._context, Sampling(temperature=temperature, seed=5, grammar=grammar))
        self._context.slots[0].clear()
        self._context.slots[0].evaluate(self._prompt)
        stream = TextStream()
        for position in range(MAX_TOKENS):
            token = sampler.draw(position)
            if self._model.is_end(token):
                self.num_stopped += 1
                break
            stream.feed(self._model.piece(token))
            self._context.slots[0].evaluate([token])
        else:
            self.num_closed += 1
            stream.drop_part()
            end = completion(grammar, stream.text)
            assert end is not None
            stream.feed(end.encode())
        sampler.close()
        stream.flush()
        return stream.text


@pytest.fixture(scope="module")
def model(smollm2: "StoredVariant") -> Model:
    return Model(str(smollm2.path), extra_buffers=False)


def check(writer: Writer, schema: JsonObject, temperature: float) -> None:
    text = writer.answer(answer_grammar(schema), temperature)
    problems = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(text))]
    assert problems == [], text


def run(writer: Writer, num_schemas: int, start: int) -> None:
    @seed(start)
    @settings(max_examples=num_schemas, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(answer_schemas, st.sampled_from([0.0, 0.7, 1.5]))
    def body(schema: JsonObject, temperature: float) -> None:
        check(writer, schema, temperature)

    body()


@pytest.mark.long
def test_answers_to_200_random_schemas_are_valid(model: Model) -> None:
    writer = Writer(model)
    run(writer, 200, start=11)
    assert writer.num_stopped + writer.num_closed >= 200
    assert writer.num_stopped >= 100
    assert writer.num_closed


def test_answers_to_a_few_random_schemas_are_valid(model: Model) -> None:
    writer = Writer(model)
    run(writer, 10, start=12)
    assert writer.num_stopped >= 3

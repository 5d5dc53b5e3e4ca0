"""The sampler on the real model's logits: formulas checked against numpy, shortcuts against the long way."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeagent.core.errors import EngineError, RequestError
from edgeagent.core.generation import Sampling
from edgeagent.execution.llama import candidates, parts
from edgeagent.execution.llama.context import Context, ContextSettings
from edgeagent.execution.llama.library import llama, release
from edgeagent.execution.llama.model import Model
from edgeagent.execution.llama.sampler import Sampler

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

DIGITS = "root ::= [0-9]+"


@pytest.fixture(scope="module")
def context(smollm2: "StoredVariant") -> Context:
    """A prompt is evaluated; its last logits are there."""
    model = Model(str(smollm2.path), extra_buffers=False)
    made = Context(model, ContextSettings(256, "q8_0", flash_attention=True, threads=1, chunk_tokens=64))
    made.slots[0].evaluate(
        model.tokenize("The lighthouse was built in the year", add_special=False, parse_special=False)
    )
    return made


def raw(context: Context) -> Any:
    return candidates.logits(context).copy()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.lists(st.integers(100, 120), max_size=12),
    output=st.lists(st.integers(100, 120), max_size=12),
    window=st.integers(1, 20),
    repetition=st.sampled_from([1.0, 1.3, 0.8]),
    presence=st.sampled_from([0.0, 0.7, -1.0]),
    frequency=st.sampled_from([0.0, 0.4, -0.3]),
)
def test_penalties_follow_their_formula_over_prompt_and_output(
    context: Context, prompt: list[int], output: list[int], window: int,
    repetition: float, presence: float, frequency: float,
) -> None:  # fmt: skip
    sampling = Sampling(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, penalty_window=window,
        logit_bias=((110, 3.0),),
    )  # fmt: skip
    sampler = Sampler(context, sampling, prompt)
    for token in output:
        sampler.accept(token)
    found = candidates.adjusted(raw(context), sampler._adjustments)
    sampler.close()

    expected = raw(context).astype(np.float64)
    expected[110] += 3.0
    recent = (prompt + output)[-window:]
    for token in set(recent) if (repetition, presence, frequency) != (1.0, 0.0, 0.0) else ():
        value = expected[token]
        value = value / repetition if value > 0 else value * repetition
        expected[token] = value - recent.count(token) * frequency - presence
    assert np.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_bias_bans_and_forces(context: Context, temperature: float) -> None:
    best = int(np.argmax(raw(context)))
    banned = Sampler(context, Sampling(temperature=temperature, logit_bias=((best, -100),)))
    forced = Sampler(context, Sampling(temperature=temperature, logit_bias=((17, 100),)))
    assert best not in {banned.draw(position) for position in range(20)}
    assert {forced.draw(position) for position in range(5)} == {17}
    banned.close()
    forced.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([-100.0, -3.0, 0.5, 12.0])), max_size=6))
def test_biased_greedy_draw_is_the_one_llama_cpp_makes(context: Context, pairs: list[tuple[int, float]]) -> None:
    best = np.argsort(-raw(context))[:41]  # so that a bias decides
    sampling = Sampling(logit_bias=tuple((int(best[rank]), value) for rank, value in pairs))
    sampler, before = Sampler(context, sampling), raw(context)
    chain = sampler._chain(sampler._adjustments, 0)
    expected = llama().llama_sampler_sample(chain, context.handle, -1)
    llama().llama_sampler_free(chain)
    assert sampler.draw(0) == expected
    assert np.array_equal(raw(context), before)
    sampler.close()


def test_bias_outside_the_vocabulary_is_refused(context: Context) -> None:
    with pytest.raises(RequestError, match="49152"):
        Sampler(context, Sampling(logit_bias=((49_152, 1.0),)))


def test_logprobs_are_of_the_unchanged_distribution(context: Context) -> None:
    sampling = Sampling(
        temperature=1.7, seed=3, presence_penalty=1.0, logit_bias=((17, 50),), logprobs=5, grammar=DIGITS
    )
    sampler = Sampler(context, sampling, context.slots[0].tokens)
    token = sampler.draw(0)
    told: dict[str, Any] = sampler.logprobs(token)
    sampler.close()
    wide = raw(context).astype(np.float64)
    expected = wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())
    order = np.argsort(-expected)[:5]
    assert told["logprob"] == pytest.approx(expected[token])
    assert [t for t, _, _ in told["top"]] == order.tolist()
    assert [p for _, _, p in told["top"]] == pytest.approx(expected[order])
    assert [bytes.fromhex(piece) for _, piece, _ in told["top"]] == [context.model.piece(int(t)) for t in order]
    assert Sampler(context, Sampling()).logprobs(token) == {}


GRAMMARS = [DIGITS, 'root ::= "{" [a-z]* "}"', "root ::= [^a-zA-Z ]+", 'root ::= "zyx" | "ünder"', 'root ::= [A-Z] "."']


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    grammar=st.sampled_from(GRAMMARS),
    temperature=st.sampled_from([0.0, 0.5, 1.5]),
    min_p=st.sampled_from([0.0, 0.05, 0.001, 1.0]),
)
def test_grammar_asked_of_a_few_gives_what_asking_all_gives(
    context: Context, grammar: str, temperature: float, min_p: float
) -> None:
    sampling = Sampling(temperature=temperature, min_p=min_p, grammar=grammar)
    made = parts.grammar(context.model, sampling)
    quick = candidates.allowed(raw(context), made, sampling)
    before, candidates.FIRST_LOOK = candidates.FIRST_LOOK, context.model.num_vocab
    try:
        whole = candidates.allowed(raw(context), made, sampling)
    finally:
        candidates.FIRST_LOOK = before
    assert len(quick)
    assert quick["id"].tolist() == whole["id"].tolist()
    assert temperature != 0 or len(quick) == 1 or quick["logit"][0] == quick["logit"][-1]


def test_greedy_draw_under_a_grammar_is_the_most_probable_token_it_takes(context: Context) -> None:
    sampler = Sampler(context, Sampling(grammar=DIGITS))
    token = sampler.draw(0)
    sampler.close()
    digits = [t for t in range(context.model.num_vocab) if context.model.piece(t).isdigit()]
    assert token == max(digits, key=lambda t: raw(context)[t])


def test_grammar_that_no_token_continues_is_an_error(context: Context) -> None:
    begun = {piece[:1] for token in range(context.model.num_vocab) if (piece := context.model.piece(token))}
    missing = next(chr(c) for c in range(1, 0x110000, 16) if chr(c).encode(errors="replace")[:1] not in begun)
    sampler = Sampler(context, Sampling(grammar=f"root ::= [\\U{ord(missing):08X}]"))
    with pytest.raises(EngineError, match="vocabulary"):
        sampler.draw(0)
    sampler.close()


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_draws_with_penalties_are_the_same_where_copies_forget_them(
    context: Context, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    sampling = Sampling(
        temperature=temperature, seed=9, frequency_penalty=1.5, presence_penalty=1.0, penalty_window=64,
        logit_bias=((17, 3.0),),
    )  # fmt: skip
    drawn: list[list[int]] = []
    for copies_penalise in {release().copies_penalise, False}:
        known = replace(release(), copies_penalise=copies_penalise)
        monkeypatch.setattr("edgeagent.execution.llama.sampler.release", lambda known=known: known)
        sampler = Sampler(context, sampling)
        drawn.append([sampler.draw(position) for position in range(20)])
        sampler.close()
    assert drawn[0] == drawn[-1]
    assert len(set(drawn[0])) > 5  # at the same logits each time: without penalties a greedy draw never changes

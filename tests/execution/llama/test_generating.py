"""Drafts in the engine, on the real model: whatever is guessed, the tokens are those of plain decoding."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeagent.core.generation import Sampling
from edgeagent.core.invariance import Invariance
from edgeagent.execution.batch_costs import BatchCosts
from edgeagent.execution.channel import Buffers, Channel, Files, Message
from edgeagent.execution.llama import generating
from edgeagent.execution.llama.draft_model import DraftModel
from edgeagent.execution.llama.drafting import Drafter, Drafting
from edgeagent.execution.llama.engine import LlamaEngine
from edgeagent.execution.llama.jobs import Granted
from edgeagent.execution.llama.rig import RigShape, write_rig
from edgeagent.execution.lookup import PromptLookup
from edgeagent.execution.worker import Request
from tests.machine import REPACKS

if TYPE_CHECKING:
    from edgeagent.model.store import StoredVariant

FREE = Invariance(decode_batch=4, draft_batch=32, free_prefill=True, rewind=True)
"""What the probe finds of this variant with a q8_0 cache and flash attention."""
CANONICAL = Invariance(draft_batch=32, rewind=True)
LIST = 'root ::= "[" word ("," " " word)* "]"\nword ::= [a-z]{1,9}'
ALL = Sampling(
    seed=11, repetition_penalty=1.2, presence_penalty=0.6, frequency_penalty=0.4, penalty_window=24,
    logit_bias=((28, -4.0), (339, 2.0)), logprobs=3,
)  # fmt: skip
SAMPLINGS = {
    "greedy": Sampling(),
    "drawn": Sampling(temperature=0.8, seed=5),
    "greedy with penalties": ALL,
    "drawn with penalties": ALL.model_copy(update={"temperature": 0.9}),
    "greedy in a grammar": Sampling(grammar=LIST),
    "drawn in a grammar": Sampling(grammar=LIST, temperature=1.0, seed=3),
}
COUNTING = "Count to twenty: one, two, three, four, one, two, three, four, one, two, three, four,"


class Recorder(Channel):
    """Keeps what a worker would send."""

    def __init__(self) -> None:
        self.sent: list[tuple[Message, list[bytes]]] = []

    def send(self, message: Message, bulk: Buffers = ()) -> None:
        self.sent.append((message, [] if isinstance(bulk, Files) else [bytes(part) for part in bulk]))

    def hold(self, message: Message, bulk: bytes = b"") -> None:
        self.send(message, [bulk])


class FreeBatches(BatchCosts):
    """A machine on which rows cost nothing: every guess is checked, from the first token on."""

    def ratio(self, rows: int) -> float:
        return 1.0

    def worst(self, rows: int) -> float:
        return 1.0

    def in_steps(self, rows: int, seconds: float) -> float:
        return 1.0


class Engine:
    """A loaded engine in this process."""

    def __init__(self, variant: "StoredVariant", invariance: Invariance, draft_path: str = "") -> None:
        self.engine = LlamaEngine()
        self.loaded = self.ask(
            "load", path=str(variant.path), extra_buffers=REPACKS, context_tokens=512, kv_type="q8_0",
            flash_attention=True, threads=1, chunk_tokens=64, sequences=2, speculation=True,
            invariance=invariance.model_dump(), draft_path=draft_path,
        )[-1]["reply"]  # fmt: skip

    def ask(self, op: str, **params: Any) -> list[Message]:
        recorder = Recorder()
        self.engine.handle(Request(recorder, {"id": 1, "op": op, "params": params}, b""))
        while self.engine.is_busy:
            self.engine.step()
        return [message | {"bulk": bulk} for message, bulk in recorder.sent]

    def prompt(self, text: str) -> list[int]:
        tokens: list[int] = self.ask("encode", messages=[{"role": "user", "content": text}])[-1]["reply"]["tokens"]
        return tokens

    def answer(
        self, prompt: Sequence[int], sampling: Sampling, max_tokens: int = 40, output: Sequence[int] = ()
    ) -> "Answer":
        told = self.ask(
            "generate", prompt=list(prompt), output=list(output), sampling=sampling.model_dump(), max_tokens=max_tokens
        )
        events = [m["event"] | {"bulk": m["bulk"]} for m in told if "token" in m.get("event", {})]
        return Answer(events, told[-1]["reply"]["reason"])

    def plain(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int = 40) -> "Answer":
        drafting, self.engine._drafting = self.engine._drafting, Drafting()
        try:
            return self.answer(prompt, sampling, max_tokens)
        finally:
            self.engine._drafting = drafting


class Answer:
    def __init__(self, events: list[Message], reason: str) -> None:
        self.reason = reason
        self.drafted = sum(e.pop("drafted", 0) for e in events)
        self.accepted = sum(e.pop("accepted", 0) for e in events)
        self.events = events
        self.tokens = [e["token"] for e in events]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and (self.events, self.reason) == (other.events, other.reason)

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture(scope="module")
def engine(smollm2: "StoredVariant") -> Engine:
    return eager(smollm2, FREE)


def eager(variant: "StoredVariant", invariance: Invariance, draft_path: str = "") -> Engine:
    made = Engine(variant, invariance, draft_path)
    made.engine._drafting.costs = FreeBatches()
    return made


class Read(list[int]):
    """Counts how often it is gone through."""

    num_times = 0

    def __iter__(self) -> Iterator[int]:
        self.num_times += 1
        return super().__iter__()


def test_ids_of_a_request_are_gone_through_once_while_it_waits_too(engine: Engine) -> None:
    prompt = Read(engine.prompt("Hello"))
    params = {"prompt": prompt, "max_tokens": 2, "sampling": Sampling().model_dump()}
    requests = [Request(Recorder(), {"id": i, "op": "generate", "params": params}, b"") for i in range(3)]
    for request in requests:  # two have a sequence, the third waits for one
        engine.engine.handle(request)
    while engine.engine.is_busy:
        engine.engine.step()
    assert prompt.num_times == len(requests)


Guess = Callable[[int, int], list[int]]
"""`(tokens drawn so far, room) -> guesses`."""


def guessing(guess: Guess) -> type[Drafter]:
    class Scripted(Drafter):
        num_drawn = 0

        def propose(self, max_tokens: int) -> list[int]:
            return guess(self.num_drawn, max_tokens)

        def note(self, drawn: Sequence[int], granted: Granted) -> None:
            self.num_drawn += len(drawn)

        def follow(self, tokens: Sequence[int]) -> None:
            self.num_drawn += len(tokens)

    return Scripted


@pytest.mark.parametrize("name", SAMPLINGS)
def test_answer_is_that_of_plain_decoding_whatever_is_guessed(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt, rng = engine.prompt("Name some animals."), random.Random(name)
    plain = engine.plain(prompt, SAMPLINGS[name])

    def guess(num_drawn: int, room: int) -> list[int]:
        right = [*plain.tokens[num_drawn:], *range(500, 510)][: rng.randint(0, min(9, room))]
        return [token if rng.random() < 0.8 else token + 1 for token in right]

    monkeypatch.setattr(generating, "Drafter", guessing(guess))
    drafted = engine.answer(prompt, SAMPLINGS[name])
    assert drafted == plain
    assert 0 < drafted.accepted < drafted.drafted


@pytest.mark.parametrize("name", ["greedy", "drawn with penalties", "greedy in a grammar"])
def test_answer_drafted_from_its_own_text_is_that_of_plain_decoding(engine: Engine, name: str) -> None:
    prompt = engine.prompt(COUNTING)
    plain = engine.plain(prompt, SAMPLINGS[name], 48)
    drafted = engine.answer(prompt, SAMPLINGS[name], 48)
    assert drafted == plain
    assert drafted.drafted > 0


def test_answer_is_that_of_plain_decoding_where_prompts_have_fixed_chunks(smollm2: "StoredVariant") -> None:
    engine = eager(smollm2, CANONICAL)
    prompt = engine.prompt(COUNTING)
    plain = engine.plain(prompt, Sampling(), 32)
    for _ in range(2):  # the second time from a cache that drafts have filled
        drafted = engine.answer(prompt, Sampling(), 32)
        assert drafted == plain
        assert drafted.accepted > 0


def test_copied_text_is_accepted_in_long_drafts(engine: Engine) -> None:
    drafted = engine.answer(engine.prompt(COUNTING), Sampling(), 48)
    assert drafted.accepted > 24


def test_end_token_inside_a_draft_ends_the_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = engine.prompt("Answer with one word: what is the capital of France?")
    plain = engine.plain(prompt, Sampling(), 60)
    assert plain.reason == "stop"
    monkeypatch.setattr(generating, "Drafter", guessing(lambda n, _: [*plain.tokens[n:], 500, 501]))
    drafted = engine.answer(prompt, Sampling(), 60)
    assert drafted == plain
    assert drafted.accepted == len(plain.tokens) - 2  # the first token was drawn before any draft; the end is no guess
    assert engine.answer(prompt, Sampling(), 60) == plain  # and the cache behind it is whole


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 7])
def test_token_limit_inside_a_draft_ends_the_answer(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    prompt = engine.prompt("Tell me a story.")
    plain = engine.plain(prompt, Sampling(), 30)
    monkeypatch.setattr(generating, "Drafter", guessing(lambda n, _: plain.tokens[n : n + 9]))  # heeds no limit
    drafted = engine.answer(prompt, Sampling(), max_tokens)
    assert drafted.events == plain.events[:max_tokens]
    assert drafted.reason == "length"


@pytest.mark.parametrize("name", ["greedy", "drawn with penalties", "drawn in a grammar"])
def test_answer_cut_anywhere_goes_on_alike_from_its_journal(engine: Engine, name: str) -> None:
    prompt, sampling = engine.prompt(COUNTING), SAMPLINGS[name]
    plain = engine.plain(prompt, sampling)
    for at in sorted({1, 2, 11, len(plain.tokens) - 2} & set(range(1, len(plain.tokens)))):
        rest = engine.answer(prompt, sampling, output=plain.tokens[:at])
        assert rest.events == plain.events[at:]


def test_rejected_guesses_leave_nothing_in_the_cache(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = engine.prompt("Tell me a story about a bridge.")
    plain = engine.plain(prompt, Sampling(), 16)
    monkeypatch.setattr(generating, "Drafter", guessing(lambda _, room: [7] * min(room, 8)))
    drafted = engine.answer(prompt, Sampling(), 16)
    assert drafted == plain
    assert drafted.accepted == 0
    assert engine.engine._context is not None
    held = max((slot.tokens for slot in engine.engine._context.slots), key=lambda t: t[: len(prompt)] == prompt)
    assert held == [*prompt, *plain.tokens[:-1]]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=9)], ids=["greedy", "drawn"])
def test_draft_model_of_the_same_weights_guesses_every_token(
    smollm2: "StoredVariant", sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptLookup, "draft", lambda _self, _limit: [])
    monkeypatch.setattr(DraftModel, "step_ratio", lambda _self, _step_s: 0.001)  # as if it were small
    engine = eager(smollm2, FREE, str(smollm2.path))
    prompt = engine.prompt("Tell me about bees.")
    plain = engine.plain(prompt, sampling, 60)
    drafted = engine.answer(prompt, sampling, 60)
    assert drafted == plain
    assert drafted.accepted == drafted.drafted > 30


def test_draft_model_with_another_vocabulary_is_left_out_and_answers_go_on(
    smollm2: "StoredVariant", tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    write_rig(RigShape("Q4_0", 1, 64, 64, 2, 2, 512), str(other))
    engine = Engine(smollm2, FREE, draft_path=str(other))
    assert "vocabulary" in engine.loaded["draft_fault"]
    assert engine.answer(engine.prompt("Hi."), Sampling(), 3).events


@pytest.mark.parametrize("invariance", [Invariance(), Invariance(draft_batch=32), Invariance(rewind=True)])
def test_nothing_is_drafted_where_it_may_change_bits(smollm2: "StoredVariant", invariance: Invariance) -> None:
    engine = eager(smollm2, invariance)
    assert engine.answer(engine.prompt(COUNTING), Sampling(), 24).drafted == 0

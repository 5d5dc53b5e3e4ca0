"""The engine's figures as a client of a daemon sees them: time to the first word, alone and in a long conversation."""

import asyncio
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import harness
from harness import Json
from raw_llama import RawProcess

from edgeagent.execution.local import LocalModel

SYSTEM = "Answer in one sentence."
"""Given, so that both sides read the same: without instructions the daemon adds its own, and the template others."""
SHORT = "Name one thing about number {} that a child would like."
CONVERSATION_CHARS = 11_500
"""About 3,000 tokens of this project's prose."""
QUESTIONS = (
    "Which of these sections would you read first, and what would you hope to learn from it before you begin?",
    "Thank you. Now say it again for somebody who has never used a terminal, in two sentences, without any jargon.",
    "And what would change in your answer if the reader had only a very small board without a screen at home?",
)


@dataclass(frozen=True, slots=True)
class Chat:
    """Streams completions from a daemon on this machine."""

    port: int

    def ask(self, messages: Sequence[Json], *, max_tokens: int) -> harness.Streamed:
        body = {
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
            "edgeagent": {"plan": "local", "reduce": "L0", "memory": False},
        }
        return harness.stream(f"http://127.0.0.1:{self.port}", body)


async def overheads_ms(chat: Chat, model: LocalModel, raw: RawProcess, rounds: int) -> list[float]:
    """Of short questions: how much later the first word comes over HTTP than from bare calls."""
    found = []
    for number in range(rounds):
        question = SHORT.format(1_000 + 37 * number)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        prompt = await model.encode(messages)
        bare_s = raw.prefill(prompt) if number % 2 else None
        answered = chat.ask(messages, max_tokens=2)
        reused = int(answered.report["reused_tokens"])
        bare_s = bare_s or raw.prefill(prompt)
        # What the daemon had in its cache from the question before (the template's beginning) is taken off the bare
        # calls, too.
        if reused:
            bare_s = raw.prefill(prompt[reused:], prompt[:reused])
        found.append(1000 * (answered.ttft_s - bare_s))
    return found


@dataclass(slots=True)
class Turns:
    """Later turns of one conversation, as ratios to bare calls on their new tokens alone."""

    second: list[float] = field(default_factory=list)
    after_restart: list[float] = field(default_factory=list)
    new_tokens: list[int] = field(default_factory=list)
    lacking: list[int] = field(default_factory=list)
    """Tokens evaluated beyond the new ones."""


async def later_turns(daemon: harness.Program, chat: Chat, model: LocalModel, raw: RawProcess, rounds: int) -> Turns:
    found, text = Turns(), await asyncio.to_thread(_prose)
    for number in range(rounds):
        begin = 400 * number
        system = f"Edition {number}. {text[begin : begin + CONVERSATION_CHARS]}"
        messages: list[Json] = [{"role": "system", "content": system}, {"role": "user", "content": QUESTIONS[0]}]
        messages.append({"role": "assistant", "content": chat.ask(messages, max_tokens=48).text})
        await asyncio.sleep(1.0)  # a person reads the answer
        messages, ratio = await _turn(chat, model, raw, messages, QUESTIONS[1], found)
        found.second.append(ratio)
        await asyncio.sleep(4.0)
        _restart(daemon)
        chat.ask([{"role": "user", "content": "Hello."}], max_tokens=2)  # loads the model
        _, ratio = await _turn(chat, model, raw, messages, QUESTIONS[2], found)
        found.after_restart.append(ratio)
        harness.progress(
            f"conversation {number + 1} of {rounds}: {found.second[-1]:.2f}, {found.after_restart[-1]:.2f}"
        )
    return found


async def _turn(
    chat: Chat, model: LocalModel, raw: RawProcess, messages: list[Json], question: str, found: Turns
) -> tuple[list[Json], float]:
    """The conversation with a question more and its answer, and the ratio of the time to its first word.

    New is what nobody can have evaluated before: the newest token of the last answer, what ends its turn, the question.
    """
    turns = [{str(k): str(v) for k, v in m.items()} for m in messages]
    known = await model.encode(turns[:-1], answer_prefix=turns[-1]["content"])
    messages = [*messages, {"role": "user", "content": question}]
    prompt = await model.encode([{str(k): str(v) for k, v in m.items()} for m in messages])
    same = next((i for i, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), len(known))
    shared = min(same, len(known) - 1)
    answered = chat.ask(messages, max_tokens=48)
    bare_s = statistics.median(raw.prefill(prompt[shared:], prompt[:shared]) for _ in range(2))
    found.new_tokens.append(len(prompt) - shared)
    found.lacking.append(shared - int(answered.report["reused_tokens"]))
    return [*messages, {"role": "assistant", "content": answered.text}], answered.ttft_s / bare_s


def _restart(daemon: harness.Program) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(60)
    daemon.start()


def _prose() -> str:
    names = ("docs/guide.md", "docs/design.md")
    return "\n".join((harness.ROOT / name).read_text() for name in names)

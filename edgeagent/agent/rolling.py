"""Reduction level L4: a summary stands for the old turns of a conversation. Pure; the local model writes the summary.

Cuts lie at every second question, so that one summary serves several requests, and the next one is made from it and
the turns since.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeagent.agent.summary import LEAD
from edgeagent.core.chat import Message

KEPT_QUESTIONS = 2
"""The newest questions with what followed them are never summed up."""
STEP_QUESTIONS = 2
MAX_TRIED = 3
"""Cuts that are looked at for one request, the newest first."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The first `num_messages` of a conversation; `key` is a hash of what was said in them, instructions apart."""

    num_messages: int
    key: bytes


def cuts(messages: Sequence[Message]) -> list[Cut]:
    """Where a summary may stand for what came before, the newest first. None of it is of the newest questions."""
    questions = [i for i, message in enumerate(messages) if message.role == "user"]
    last = (len(questions) - KEPT_QUESTIONS) // STEP_QUESTIONS * STEP_QUESTIONS
    numbers = range(last, 0, -STEP_QUESTIONS)
    return [Cut(questions[n], key_of(messages[: questions[n]])) for n in list(numbers)[:MAX_TRIED]]


def key_of(messages: Sequence[Message]) -> bytes:
    told = hashlib.blake2b(digest_size=16)
    for message in _said(messages):
        content = message.content.encode(errors="replace")
        told.update(f"|{message.role}:{len(content)}:".encode() + content)
    return told.digest()


def _said(messages: Sequence[Message]) -> Iterator[Message]:
    return (message for message in messages if message.role != "system")


def lines_of(messages: Sequence[Message]) -> list[str]:
    """Who said what."""
    return [f"{message.role}: {message.content}" for message in _said(messages) if message.content]


def with_summary(messages: Sequence[Message], num_messages: int, summary: str) -> tuple[Message, ...]:
    """The conversation from the cut on, its first question behind the summary; instructions stay."""
    instructions = [m for m in messages[:num_messages] if m.role == "system"]
    first, *rest = messages[num_messages:]
    led = first.model_copy(update={"content": f"{LEAD}{summary}\n\n{first.content}"})
    return (*instructions, led, *rest)

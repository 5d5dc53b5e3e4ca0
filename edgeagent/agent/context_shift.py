"""Context shift: when a conversation outgrows the context, its oldest questions and their answers go. Pure.

Instructions stay, and so do the newest question and what followed it. A tool's call and its result are never parted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeagent.core.chat import Message

KEPT_PART = 0.6
"""Of the room that is used after a shift: so much goes at once that the next turns find the same beginning in the
cache. One turn a time would change the beginning, and have all of it read again, with every question."""
FULL_PART = 0.9
"""Of the room that a conversation may fill before a shift; the rest is for what recalls and documents add."""
MESSAGE_TOKENS = 8
"""More than the templates of the known models put around one message (5 to 7)."""


@dataclass(frozen=True, slots=True)
class Shifted:
    """The conversation without its oldest part: `num_messages` of it, among them `num_questions` of the user."""

    messages: tuple[Message, ...]
    num_messages: int
    num_questions: int


def shift(messages: Sequence[Message], counts: Sequence[int], room: int, prompt_tokens: int = 0) -> Shifted | None:
    """What is left so that the prompt fits `room` tokens; None when it fits, or nothing may go.

    `counts`: tokens of each message; `prompt_tokens`: what the prompt takes with what was added to the messages.

    Where to cut is found by living through the conversation from its start, shifting whenever it was full. So every
    later request with the same beginning is cut at the same place, until the room is full again.
    """
    if not (starts := _starts(messages)):
        return None
    sizes = [n + MESSAGE_TOKENS for n in counts]
    fixed = sum(size for size, message in zip(sizes, messages, strict=True) if message.role == "system")
    added, last = max(0, prompt_tokens - sum(sizes)), len(messages) - 1
    first = 0
    for now in (i for i, message in enumerate(messages) if message.role in ("user", "tool")):
        reached = sum(start <= now for start in starts)
        used, more = fixed + _used(messages, sizes, starts[first], now), added * (now == last)
        if used > FULL_PART * room or used + more > room:
            first = _after_shift(messages, sizes, starts[:reached], first, now, KEPT_PART * room - fixed - more)
    if first == 0:
        return None
    kept = [m for i, m in enumerate(messages) if m.role == "system" or i >= starts[first]]
    gone = [m for i, m in enumerate(messages) if m.role != "system" and i < starts[first]]
    return Shifted(tuple(kept), len(gone), sum(m.role == "user" for m in gone))


def _starts(messages: Sequence[Message]) -> list[int]:
    """Where a part begins that goes or stays as one: at each question, and at what comes before the first."""
    questions = [i for i, message in enumerate(messages) if message.role == "user"]
    greeting = next((i for i, message in enumerate(messages) if message.role != "system"), 0)
    return questions if not questions or greeting in questions else [greeting, *questions]


def _used(messages: Sequence[Message], sizes: Sequence[int], first: int, last: int) -> int:
    return sum(sizes[i] for i in range(first, last + 1) if messages[i].role != "system")


def _after_shift(
    messages: Sequence[Message], sizes: Sequence[int], starts: Sequence[int], first: int, now: int, room: float
) -> int:
    """The number of the part that a conversation cut at `now` begins with; the newest question's stays."""
    while first < len(starts) - 1:
        first += 1
        if _used(messages, sizes, starts[first], now) <= room:
            break
    return first

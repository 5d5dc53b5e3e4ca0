"""Reflection: what a session's turns came to, written down as one summary by whoever can write, when there is time."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from edgeagent.agent.memory.memory import Memory
from edgeagent.agent.memory.upkeep import summary_of
from edgeagent.agent.summary import summary_in, to_sum_up
from edgeagent.core.chat import Message

LEAST_TURNS = 8
MAX_READ_CHARS = 6000
"""Of a session, its end: what a small model reads in a few seconds."""

Write = Callable[[Sequence[Message]], Awaitable[str]]
"""The answer of a language model."""


async def reflect(memory: Memory, user: str, write: Write, *, most: int = 1) -> AsyncGenerator[str, None]:
    """The ids of new summaries, of at most so many sessions that have turns enough and no summary yet.

    Raises what `write` raises; what was stored before stays. A session is summed up once: turns that come later are
    recalled by themselves. When the user has something forgotten meanwhile, what was read before is not stored.
    """
    since = await memory.forgettings(user)
    for source, texts in (await memory.unreflected(user, LEAST_TURNS))[:most]:
        if summary := summary_in(await write(to_sum_up(newest_of(texts)))):
            id_ = await memory.add_since(user, summary, "summary", summary_of(source), since)
            if id_ is not None:
                yield id_


def newest_of(texts: Sequence[str]) -> list[str]:
    """Whole turns from the end, as many as fit."""
    kept: list[str] = []
    room = MAX_READ_CHARS
    for text in reversed(texts):
        if (room := room - len(text) - 1) < 0 and kept:
            break
        kept.append(text[:MAX_READ_CHARS])
    return kept[::-1]

"""Reflection: what a session's turns came to, written down as one summary by whoever can write, when there is time."""

from collections.abc import Awaitable, Callable, Sequence

from edgeagent.agent.memory.memory import Memory

LEAST_TURNS = 8
MAX_CHARS = 6000
"""Of a session, its end: what a small model reads in a few seconds."""
MAX_SUMMARY_CHARS = 1200

Write = Callable[[str], Awaitable[str]]
"""The answer of a language model to a prompt."""


async def reflect(memory: Memory, user: str, write: Write, *, most: int = 1) -> list[str]:
    """The ids of new summaries, of at most so many sessions that have turns enough and no summary yet.

    Raises what `write` raises; what was stored before stays. A session is summed up once: turns that come later are
    recalled by themselves.
    """
    ids: list[str] = []
    for source, texts in (await memory.unreflected(user, LEAST_TURNS))[:most]:
        summary = " ".join((await write(prompt_of(texts))).split())[:MAX_SUMMARY_CHARS]
        if summary:
            ids.append(await memory.add(user, summary, "summary", summary_of(source)))
    return ids


def prompt_of(texts: Sequence[str]) -> str:
    """Whole turns from the end, as many as fit."""
    kept: list[str] = []
    room = MAX_CHARS
    for text in reversed(texts):
        if (room := room - len(text) - 1) < 0 and kept:
            break
        kept.append(text[:MAX_CHARS])
    talk = "\n".join(reversed(kept))
    return f"Summarize this conversation in two or three short sentences. Keep names, numbers and dates.\n\n{talk}"


def summary_of(source: str) -> str:
    """The source of a session's summary."""
    return f"summary of {source}"

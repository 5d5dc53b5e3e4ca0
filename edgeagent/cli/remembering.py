"""What the commands of `edgeagent memory` share: the open memory, the options, and how a memory is shown."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

import click

from edgeagent import parts
from edgeagent.agent.memory.memory import Memory
from edgeagent.core.errors import ConfigError
from edgeagent.core.memory import MemoryItem
from edgeagent.settings import load_settings

LINE_CHARS = 100

_Result = TypeVar("_Result")
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
user_option = click.option(
    "--user", metavar="U", help="Whose memories: a user's, or U/AGENT an agent's own; without it the configured user's."
)


def with_memory(
    user: str | None, work: Callable[[Memory, str], Coroutine[object, object, _Result]]
) -> tuple[_Result, str]:
    """The result of `work` on the configured memory, and the user it was done for."""
    settings = load_settings()
    if not settings.config.memory.enabled:
        raise ConfigError("memory is switched off; set memory.enabled = true")
    owner = settings.config.memory.user if user is None else user

    async def session() -> _Result:
        async with parts.open_memory(settings) as store:
            return await work(store, owner)

    return asyncio.run(session()), owner


def line(item: MemoryItem) -> str:
    day = date_of(item.created_at)
    text = " ".join(item.text.split())
    shown = text if len(text) <= LINE_CHARS else text[: LINE_CHARS - 1] + "…"
    return f"{item.id}  {day}  {shown}" + (f"  [{item.source}]" if item.source else "")


def date_of(at: float, form: str = "%Y-%m-%d") -> str:
    """Local time; of what no calendar knows (an earlier version took any number) a word."""
    try:
        return time.strftime(form, time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return "undated   "


def about(item: MemoryItem) -> str:
    """What there is to say of a memory beside its text."""
    stored = date_of(item.created_at, "%Y-%m-%d %H:%M")
    source = f", from {item.source}" if item.source else ""
    summed_up = f", sums up {item.conversation.num_messages} messages" if item.conversation else ""
    return f"{item.id}  {item.kind}, {stored}{source}{summed_up}"


def gone_along(summaries: Sequence[str]) -> str:
    """What to tell of the ids of summaries that were forgotten with a memory."""
    return f"; forgot the summaries {', '.join(summaries)}, which may tell of it" if summaries else ""


def print_facts(facts: object, as_json: bool, text: str) -> None:
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else text)

"""Puts another worker in the place of one, without dropping what is under way in it."""

import asyncio
from collections.abc import Awaitable, Callable

from edgeagent.execution.supervisor import Worker

Start = Callable[[], Awaitable[Worker]]
"""Starts the successor, ready for calls."""


async def replace_worker(
    old: Worker, start: Start, *, fits_beside: bool, drain_s: float
) -> tuple[Worker, asyncio.Task[None] | None]:
    """The successor, and the task in which the old one ends its calls (None: it has ended).

    When both fit in memory, new calls go to the successor at once and the old one has `drain_s` for its own; when not,
    the old one drains first. If the successor cannot be started beside it, the old one stays as it was.
    """
    if not fits_beside:
        await old.drain(drain_s)
        return await start(), None
    new = await start()
    old.retire()
    return new, asyncio.create_task(old.drain(drain_s), name=f"drain-{old.engine}-{old.pid}")

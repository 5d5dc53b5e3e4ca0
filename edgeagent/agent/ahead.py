"""Lets whatever makes things run ahead of whoever reads them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

Item = TypeVar("Item")


async def ahead(source: AsyncGenerator[Item, None], name: str) -> AsyncGenerator[Item, None]:
    """What `source` gives, from a task of its own by this name: it never waits until an item is read.

    So what it measures is its own pace, and what it holds is free as soon as it is done. Leaving the iteration ends it.
    What waits to be read has no bound but the source's own end.
    """
    made: asyncio.Queue[Item | None] = asyncio.Queue()
    task = asyncio.create_task(_fill(made, source), name=name)
    try:
        while (item := await made.get()) is not None:
            yield item
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _fill(made: "asyncio.Queue[Item | None]", source: AsyncGenerator[Item, None]) -> None:
    try:
        async with contextlib.aclosing(source):
            async for item in source:
                made.put_nowait(item)
    finally:
        made.put_nowait(None)

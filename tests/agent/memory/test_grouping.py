"""Additions of several callers at once: one wait for the disk, and each its own outcome."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeagent.agent.memory.grouping import GroupedAdditions
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import MemoryStoreError, QuotaError

DIMENSIONS = 64
NONE = bytes(4 * DIMENSIONS)


class Desk:
    """A store on a thread that is kept busy until `open`, so that what is added meanwhile comes together."""

    def __init__(self, folder: Path, max_memories: int | None = None) -> None:
        self.thread = ThreadPoolExecutor(max_workers=1)
        opening = (folder / "memory.sqlite", DIMENSIONS, None, max_memories)
        self.store = self.thread.submit(MemoryStore.open, *opening).result()
        self.num_commits = 0
        self.store._db.set_commit_hook(self._count)
        self.is_open = threading.Event()
        self.thread.submit(self.is_open.wait)
        self.additions = GroupedAdditions(self.store, self._on_thread)

    def _count(self) -> bool:
        self.num_commits += 1
        return False

    def _on_thread(self, work: Callable[[], None]) -> Awaitable[None]:
        return asyncio.get_running_loop().run_in_executor(self.thread, work)

    def close(self) -> None:
        self.is_open.set()
        self.thread.submit(self.store.close).result()
        self.thread.shutdown()


def note(text: str, vector: bytes = NONE) -> NewMemory:
    return NewMemory("note", text, "", 1e9, vector)


async def started(*calls: Coroutine[None, None, list[str]]) -> list[asyncio.Task[list[str]]]:
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


def test_additions_that_come_together_are_one_transaction(tmp_path: Path) -> None:
    async def body() -> None:
        desk = Desk(tmp_path)
        tasks = await started(*(desk.additions.add(f"user{i % 3}", [note(f"note {i}")]) for i in range(40)))
        desk.is_open.set()
        ids = [id_ for ids in await asyncio.gather(*tasks) for id_ in ids]
        assert len(set(ids)) == 40
        assert desk.num_commits == 1
        assert [len(await desk.additions.add("user0", [note("one more")]))] == [1]
        assert desk.num_commits == 2
        desk.close()

    asyncio.run(body())


def test_addition_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    async def body() -> None:
        desk = Desk(tmp_path, max_memories=2)
        tasks = await started(
            desk.additions.add("ann", [note("one"), note("two")]),
            desk.additions.add("ann", [note("three")]),
            desk.additions.add("bob", [note("good"), note("bad", b"\0" * 8)]),
            desk.additions.add("bob", [note("good")]),
        )
        desk.is_open.set()
        one, three, bad, good = await asyncio.gather(*tasks, return_exceptions=True)
        assert (isinstance(three, QuotaError), isinstance(bad, MemoryStoreError)) == (True, True)
        assert desk.num_commits == 1
        held = {user: {item.id for item in desk.store.page(user, 0, 9)[0]} for user in ("ann", "bob")}
        assert held == {
            "ann": set(one if isinstance(one, list) else ()),
            "bob": set(good if isinstance(good, list) else ()),
        }
        assert [len(ids) for ids in held.values()] == [2, 1]
        desk.close()

    asyncio.run(body())


def test_addition_that_is_cancelled_before_its_turn_is_not_stored(tmp_path: Path) -> None:
    async def body() -> None:
        desk = Desk(tmp_path)
        first, second = await started(
            desk.additions.add("ann", [note("one")]), desk.additions.add("ann", [note("two")])
        )
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        desk.is_open.set()
        await second
        assert [item.text for item in desk.store.list("ann", 9)] == ["two"]
        desk.close()

    asyncio.run(body())

import asyncio
from pathlib import Path

from tests.execution.kvstore.rows import KEY, PATH, Make, add, files, matched, num_open_files, persist


def test_long_conversation_ends_up_in_few_files(make: Make, tmp_path: Path) -> None:
    store = make()
    path = list(range(2000))
    for end in range(20, 2001, 20):
        add(store, KEY, path[:end], end - 20)
        persist(store)
    assert len(files(tmp_path / "kv")) <= 2000 // 512 + 10
    store.close()
    assert matched(make(), KEY, path) == 2000


def test_long_prompt_is_written_in_bounded_files(make: Make, tmp_path: Path) -> None:
    store = make()
    path = list(range(3000))
    add(store, KEY, path, 0)
    assert persist(store) == 6
    store.close()
    assert matched(make(), KEY, path) == 3000


def test_cancelled_persist_neither_leaks_nor_tears_nor_writes_twice(make: Make) -> None:
    before = num_open_files()
    store = make()
    paths = [[tail, *range(200)] for tail in range(40)]
    for path in paths:
        add(store, KEY, path, 0)

    async def cancel_always() -> None:
        while store.stats().num_written < len(paths):
            work = asyncio.create_task(store.persist())
            await asyncio.sleep(0)  # a thread writes now, or still
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    asyncio.run(cancel_always())
    assert persist(store) == 0
    assert store.stats().num_written == len(paths)
    assert [matched(store, KEY, path) for path in paths] == [201] * len(paths)
    store.close()
    assert num_open_files() == before
    again = make()
    assert [matched(again, KEY, path) for path in paths] == [201] * len(paths)
    assert again.stats().num_damaged == 0


def test_path_that_parts_while_others_are_written_is_written_right(make: Make) -> None:
    store = make()
    path, other = [*range(100)], [*range(10), *range(500, 520)]
    add(store, KEY, path[:50], 0)
    add(store, KEY, path, 50)
    add(store, KEY, PATH, 0)

    async def part_meanwhile() -> None:
        writing = asyncio.create_task(store.persist())
        await asyncio.sleep(0)  # PATH is being written, and all of `path` is to be one file after it
        add(store, KEY, other, 10)
        await writing
        await store.persist()

    asyncio.run(part_meanwhile())
    store.close()
    again = make()
    assert [matched(again, KEY, each) for each in (PATH, path, other)] == [100, 100, 30]
    assert again.stats().num_damaged == 0

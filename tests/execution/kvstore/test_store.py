import os
from pathlib import Path

import pytest

from edgeagent.execution.kvstore.store import MAX_PARTS, KvLimits
from tests.execution.kvstore.rows import (
    CELL_BYTES,
    KEY,
    PATH,
    PLANES,
    Clock,
    Make,
    add,
    block,
    files,
    matched,
    memory_file,
    num_open_files,
    persist,
)


def test_rows_come_back_in_order_of_their_cells(make: Make) -> None:
    store = make(None)
    for first in range(0, 100, 7):
        add(store, KEY, PATH[: first + 7], first)
    assert store.covered(KEY, [*PATH, 1, 2]) == 100
    assert matched(store, KEY, [*PATH, 1, 2]) == 100
    assert store.match("another build", PATH) is None
    assert (store.stats().num_hits, store.stats().num_misses) == (1, 1)


def test_conversation_that_diverges_in_a_block_shares_its_beginning(make: Make) -> None:
    store = make(None)
    other = [*PATH[:30], *range(500, 520)]
    add(store, KEY, PATH, 0)
    assert matched(store, KEY, other) == 30
    add(store, KEY, other, 30)
    assert matched(store, KEY, other) == 50
    assert matched(store, KEY, PATH) == 100
    assert store.stats().num_blocks == 2
    assert store.stats().ram_bytes == 120 * CELL_BYTES


def test_known_cells_are_not_kept_twice(make: Make) -> None:
    store = make(None)
    add(store, KEY, PATH[:50], 0)
    before = num_open_files()
    add(store, KEY, PATH[:50], 0)
    add(store, KEY, PATH[:40], 20)
    assert num_open_files() == before
    add(store, KEY, PATH[:80], 10)  # its tail is new
    assert matched(store, KEY, PATH) == 80


@pytest.mark.parametrize(
    ("first", "num_cells", "planes"),
    [(10, 20, PLANES), (0, 0, PLANES), (-1, 5, PLANES), (0, 20, ()), (0, 20, (16, 0)), (0, 20, (3, 8, 6))],
)
def test_rows_that_do_not_fit_are_not_kept(make: Make, first: int, num_cells: int, planes: tuple[int, ...]) -> None:
    store = make(None)
    before = num_open_files()
    store.add(KEY, PATH[:num_cells], first, memory_file(bytes(20 * CELL_BYTES)), planes)
    assert store.stats().num_blocks == 0
    assert num_open_files() == before


def test_planes_unlike_those_of_the_key_are_refused(make: Make) -> None:
    store = make(None)
    add(store, KEY, PATH[:50], 0)
    store.add(KEY, PATH, 50, memory_file(bytes(50 * 16)), (8, 8))
    assert matched(store, KEY, PATH) == 50


def test_store_restores_after_a_restart(make: Make, tmp_path: Path) -> None:
    store = make()
    other = [*PATH[:30], *range(500, 520)]
    for first in range(0, 100, 5):
        add(store, KEY, PATH[: first + 5], first)
    assert persist(store) == 1
    add(store, KEY, other, 30)
    add(store, "second", PATH[:3], 0)
    assert persist(store) == 2
    assert persist(store) == 0
    store.close()
    again = make()
    assert again.covered(KEY, PATH) == 100
    assert matched(again, KEY, PATH) == 100
    assert matched(again, KEY, other) == 50
    assert matched(again, "second", PATH) == 3
    assert again.stats().disk_bytes == sum(file.stat().st_size for file in files(tmp_path / "kv"))


def test_match_has_no_more_parts_than_a_packet_takes(make: Make) -> None:
    store = make(None)
    path = list(range(600))
    for end in range(1, 241):
        add(store, KEY, path[:end], end - 1)
    assert store.covered(KEY, path) == MAX_PARTS
    for end in range(241, 601):
        add(store, KEY, path[:end], end - 1)
    assert matched(store, KEY, path) >= 512
    assert num_open_files() < 300
    persist(store)
    assert matched(store, KEY, path) == 600


def test_memory_goes_first_where_a_file_is(make: Make) -> None:
    store = make(limits=KvLimits(100 * CELL_BYTES, 2**30))
    add(store, KEY, PATH, 0)
    persist(store)
    other = PATH[::-1]
    add(store, KEY, other, 0)
    assert store.stats().ram_bytes == 100 * CELL_BYTES
    assert matched(store, KEY, PATH) == 100
    assert matched(store, KEY, other) == 100


def test_least_recently_used_leaf_goes_first(make: Make) -> None:
    store = make(None, limits=KvLimits(220 * CELL_BYTES, 0))
    tails = {tail: [*PATH, *range(1000 * tail, 1000 * tail + 50)] for tail in (1, 2, 3)}
    add(store, KEY, PATH, 0)
    add(store, KEY, tails[1], 100)
    add(store, KEY, tails[2], 100)
    assert matched(store, KEY, tails[1]) == 150
    add(store, KEY, tails[3], 100)
    assert [store.covered(KEY, tails[tail]) for tail in (1, 2, 3)] == [150, 100, 150]
    assert store.stats().num_evicted == 1


def test_disk_quota_keeps_what_was_used_last(make: Make, tmp_path: Path) -> None:
    limits = KvLimits(0, 10_000)
    clock = Clock()
    paths = [[tail, *PATH] for tail in range(6)]
    for path in paths:
        store = make(limits=KvLimits(2**20, limits.disk_bytes), clock=clock)
        add(store, KEY, path, 0)
        assert persist(store) == 1
        assert matched(store, KEY, paths[0]) == 101
        store.close()
        assert sum(file.stat().st_size for file in files(tmp_path / "kv")) <= limits.disk_bytes
    store = make(limits=KvLimits(2**20, limits.disk_bytes), clock=clock)
    assert [store.covered(KEY, path) > 0 for path in paths] == [True, False, False, False, True, True]


def test_what_made_room_is_not_written_again(make: Make) -> None:
    store = make(limits=KvLimits(2**20, 3000))
    add(store, KEY, PATH, 0)
    assert persist(store) == 1
    add(store, KEY, PATH[::-1], 0)
    assert persist(store) == 1
    assert persist(store) == 0
    assert matched(store, KEY, PATH) == 100  # from memory, and so worth keeping again
    assert persist(store) == 1


def test_smaller_quota_is_kept_after_a_restart(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    add(store, KEY, PATH[::-1], 0)
    persist(store)
    store.close()
    again = make(limits=KvLimits(2**20, 3000))
    assert again.covered(KEY, PATH[::-1]) == 100
    assert again.covered(KEY, PATH) == 0
    assert len(files(tmp_path / "kv")) == 1


def test_order_of_use_outlives_a_clock_that_is_set_back(make: Make) -> None:
    paths = [[tail, *PATH] for tail in range(4)]
    clock = Clock()
    for path in paths:
        store = make(limits=KvLimits(2**20, 10_000), clock=clock)
        clock.now_s -= 1000
        add(store, KEY, path, 0)
        persist(store)
        store.close()
    store = make(limits=KvLimits(2**20, 6_000), clock=clock)
    assert [store.covered(KEY, path) for path in paths] == [0, 0, 101, 101]


def test_match_outlives_what_it_matched(make: Make) -> None:
    store = make(limits=KvLimits(0, 2**30))
    add(store, KEY, PATH, 0)
    assert store.stats().num_blocks == 0  # no memory, and not yet on disk
    store = make(None, limits=KvLimits(100 * CELL_BYTES, 0))
    add(store, KEY, PATH, 0)
    match = store.match(KEY, PATH)
    add(store, KEY, PATH[::-1], 0)
    assert store.covered(KEY, PATH) == 0
    assert match is not None
    with match:
        assert os.pread(match.parts[0].descriptor, 2000, 0) == block(KEY, PATH, 0)


def test_nothing_stays_open(make: Make) -> None:
    before = num_open_files()
    store = make()
    for end in range(10, 101, 10):
        add(store, KEY, PATH[:end], end - 10)
        assert matched(store, KEY, PATH) == end
    persist(store)
    store.close()
    again = make()
    assert matched(again, KEY, PATH) == 100
    again.close()
    assert num_open_files() == before


def test_rows_are_sealed_against_their_maker(make: Make) -> None:
    store = make(None)
    descriptor = memory_file(block(KEY, PATH, 0))
    theirs = os.dup(descriptor)
    store.add(KEY, PATH, 0, descriptor, PLANES)
    with pytest.raises(PermissionError):
        os.truncate(theirs, 0)
    with pytest.raises(PermissionError):
        os.pwrite(theirs, b"x", 0)
    os.close(theirs)


def test_symbol_out_of_range_is_an_error_of_the_caller(make: Make) -> None:
    before = num_open_files()
    with pytest.raises(OverflowError):
        make(None).add(KEY, [2**63], 0, memory_file(bytes(CELL_BYTES)), PLANES)
    assert num_open_files() == before


def test_closed_store_leaves_the_folder_alone(make: Make, tmp_path: Path) -> None:
    store = make()
    store.close()
    assert store.covered(KEY, PATH) == 0
    assert persist(store) == 0
    assert not (tmp_path / "kv").exists()


def test_forgotten_rows_are_gone_with_what_continues_them_and_others_stay(make: Make) -> None:
    store = make()
    other = [7, *PATH]
    add(store, KEY, PATH[:60], 0)
    add(store, KEY, PATH, 60)
    add(store, KEY, other, 0)
    persist(store)
    store.forget(KEY, PATH)
    assert store.covered(KEY, PATH) == 0
    assert store.covered(KEY, other) == len(other)
    store.forget(KEY, PATH)
    store.forget("no such key", PATH)
    assert store.stats().num_blocks == 1

import asyncio
import errno
import logging
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeagent.execution.kvstore.folder import KvFolder
from edgeagent.execution.kvstore.store import MAX_PARTS, KvLimits, KvStore
from tests.execution.kvstore.rows import PLANES, add, block, matched, memory_file

CELL_BYTES = sum(PLANES)
KEY = "model build q8_0"
PATH = list(range(100, 200))
AMPLE = KvLimits(2**30, 2**30)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., KvStore]]:
    stores: list[KvStore] = []

    def made(folder: Path | None = tmp_path / "kv", limits: KvLimits = AMPLE, clock: Clock | None = None) -> KvStore:
        stores.append(KvStore(folder, limits, clock or Clock()))
        return stores[-1]

    yield made
    for store in stores:
        store.close()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def persist(store: KvStore) -> int:
    return asyncio.run(store.persist())


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_rows_come_back_in_order_of_their_cells(make: Callable[..., KvStore]) -> None:
    store = make(None)
    for first in range(0, 100, 7):
        add(store, KEY, PATH[: first + 7], first)
    assert store.covered(KEY, [*PATH, 1, 2]) == 100
    assert matched(store, KEY, [*PATH, 1, 2]) == 100
    assert store.match("another build", PATH) is None
    assert (store.stats().num_hits, store.stats().num_misses) == (1, 1)


def test_conversation_that_diverges_in_a_block_shares_its_beginning(make: Callable[..., KvStore]) -> None:
    store = make(None)
    other = [*PATH[:30], *range(500, 520)]
    add(store, KEY, PATH, 0)
    assert matched(store, KEY, other) == 30
    add(store, KEY, other, 30)
    assert matched(store, KEY, other) == 50
    assert matched(store, KEY, PATH) == 100
    assert store.stats().num_blocks == 2
    assert store.stats().ram_bytes == 120 * CELL_BYTES


def test_known_cells_are_not_kept_twice(make: Callable[..., KvStore]) -> None:
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
def test_rows_that_do_not_fit_are_not_kept(
    make: Callable[..., KvStore], first: int, num_cells: int, planes: tuple[int, ...]
) -> None:
    store = make(None)
    before = num_open_files()
    store.add(KEY, PATH[:num_cells], first, memory_file(bytes(20 * CELL_BYTES)), planes)
    assert store.stats().num_blocks == 0
    assert num_open_files() == before


def test_planes_unlike_those_of_the_key_are_refused(make: Callable[..., KvStore]) -> None:
    store = make(None)
    add(store, KEY, PATH[:50], 0)
    store.add(KEY, PATH, 50, memory_file(bytes(50 * 16)), (8, 8))
    assert matched(store, KEY, PATH) == 50


def test_store_restores_after_a_restart(make: Callable[..., KvStore], tmp_path: Path) -> None:
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


def test_long_conversation_ends_up_in_few_files(make: Callable[..., KvStore], tmp_path: Path) -> None:
    store = make()
    path = list(range(2000))
    for end in range(20, 2001, 20):
        add(store, KEY, path[:end], end - 20)
        persist(store)
    assert len(files(tmp_path / "kv")) <= 2000 // 512 + 10
    store.close()
    assert matched(make(), KEY, path) == 2000


def test_long_prompt_is_written_in_bounded_files(make: Callable[..., KvStore], tmp_path: Path) -> None:
    store = make()
    path = list(range(3000))
    add(store, KEY, path, 0)
    assert persist(store) == 6
    store.close()
    assert matched(make(), KEY, path) == 3000


def test_match_has_no_more_parts_than_a_packet_takes(make: Callable[..., KvStore]) -> None:
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


def test_prepare_verifies_before_match(make: Callable[..., KvStore], tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    store.close()
    again = make()
    asyncio.run(again.prepare(KEY, PATH))
    damage(files(tmp_path / "kv")[0], 0)  # what was verified is not read again
    match = again.match(KEY, PATH)
    assert match is not None
    match.close()


def damage(file: Path, offset: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 0x40]))


@pytest.mark.parametrize("offset", [0, 799, 1500, -1, -40, -300])
def test_damaged_file_ends_the_match_and_goes(make: Callable[..., KvStore], tmp_path: Path, offset: int) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    add(store, KEY, [*PATH, *range(60)], 100)
    add(store, KEY, [*PATH, 777], 100)
    persist(store)
    store.close()
    middle = next(
        file for file in files(tmp_path / "kv") if file.name.startswith("00000064") and file.stat().st_size > 1500
    )
    damage(middle, offset)
    again = make()
    assert matched(again, KEY, [*PATH, *range(60)]) == 100
    assert not middle.exists()
    assert matched(again, KEY, [*PATH, 777]) == 101
    assert again.stats().num_damaged == 1


@pytest.mark.parametrize("kept", [0, 10, 79, 80, 500, 1599, 1600, 2400])
def test_file_cut_short_is_not_believed(make: Callable[..., KvStore], tmp_path: Path, kept: int) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    store.close()
    os.truncate(files(tmp_path / "kv")[0], kept)
    again = make()
    assert matched(again, KEY, PATH) == 0
    add(again, KEY, PATH, 0)
    assert persist(again) == 1
    again.close()
    assert matched(make(), KEY, PATH) == 100


def test_file_damaged_after_the_scan_is_found_out(make: Callable[..., KvStore], tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    store.close()
    again = make()
    assert again.covered(KEY, PATH) == 100
    os.truncate(files(tmp_path / "kv")[0], 900)
    assert matched(again, KEY, PATH) == 0
    assert again.covered(KEY, PATH) == 0


def test_file_under_the_name_of_another_path_is_not_believed(make: Callable[..., KvStore], tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    add(store, KEY, PATH[::-1], 0)
    persist(store)
    store.close()
    one, two = files(tmp_path / "kv")
    one.replace(two)
    assert matched(make(), KEY, PATH) == 0
    assert matched(make(), KEY, PATH[::-1]) == 0


def test_foreign_files_are_left_alone(make: Callable[..., KvStore], tmp_path: Path) -> None:
    folder = tmp_path / "kv"
    folder.mkdir()
    (folder / "README").write_text("not ours")
    (folder / "00000000-zz.kv").write_bytes(b"x" * 500)
    (folder / "sub.kv").mkdir()
    os.mkfifo(folder / f"00000000-00000000-{'0' * 32}.kv")
    (folder / f"00000000-00000001-{'0' * 32}.kv").symlink_to("/dev/zero")
    store = make()
    add(store, KEY, PATH, 0)
    assert persist(store) == 1
    assert (folder / "README").exists()
    assert (folder / "00000000-zz.kv").exists()
    assert (folder / "sub.kv").exists()


def test_memory_goes_first_where_a_file_is(make: Callable[..., KvStore]) -> None:
    store = make(limits=KvLimits(100 * CELL_BYTES, 2**30))
    add(store, KEY, PATH, 0)
    persist(store)
    other = PATH[::-1]
    add(store, KEY, other, 0)
    assert store.stats().ram_bytes == 100 * CELL_BYTES
    assert matched(store, KEY, PATH) == 100
    assert matched(store, KEY, other) == 100


def test_least_recently_used_leaf_goes_first(make: Callable[..., KvStore]) -> None:
    store = make(None, limits=KvLimits(220 * CELL_BYTES, 0))
    tails = {tail: [*PATH, *range(1000 * tail, 1000 * tail + 50)] for tail in (1, 2, 3)}
    add(store, KEY, PATH, 0)
    add(store, KEY, tails[1], 100)
    add(store, KEY, tails[2], 100)
    assert matched(store, KEY, tails[1]) == 150
    add(store, KEY, tails[3], 100)
    assert [store.covered(KEY, tails[tail]) for tail in (1, 2, 3)] == [150, 100, 150]
    assert store.stats().num_evicted == 1


def test_disk_quota_keeps_what_was_used_last(make: Callable[..., KvStore], tmp_path: Path) -> None:
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


def test_what_made_room_is_not_written_again(make: Callable[..., KvStore]) -> None:
    store = make(limits=KvLimits(2**20, 3000))
    add(store, KEY, PATH, 0)
    assert persist(store) == 1
    add(store, KEY, PATH[::-1], 0)
    assert persist(store) == 1
    assert persist(store) == 0
    assert matched(store, KEY, PATH) == 100  # from memory, and so worth keeping again
    assert persist(store) == 1


def test_smaller_quota_is_kept_after_a_restart(make: Callable[..., KvStore], tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    add(store, KEY, PATH[::-1], 0)
    persist(store)
    store.close()
    again = make(limits=KvLimits(2**20, 3000))
    assert again.covered(KEY, PATH[::-1]) == 100
    assert again.covered(KEY, PATH) == 0
    assert len(files(tmp_path / "kv")) == 1


def test_second_process_reads_and_takes_over(make: Callable[..., KvStore], tmp_path: Path) -> None:
    owner = make()
    add(owner, KEY, PATH, 0)
    persist(owner)
    reader = make()
    assert matched(reader, KEY, PATH) == 100
    add(reader, KEY, [*PATH, 5], 100)
    assert persist(reader) == 0
    add(owner, KEY, [*PATH, 6], 100)
    persist(owner)
    owner.close()
    assert persist(reader) == 1
    assert matched(reader, KEY, [*PATH, 5]) == 101
    assert matched(reader, KEY, [*PATH, 6]) == 101
    reader.close()
    assert matched(make(), KEY, [*PATH, 5]) == 101


def test_reader_survives_what_the_owner_deletes(make: Callable[..., KvStore], tmp_path: Path) -> None:
    owner = make()
    add(owner, KEY, PATH, 0)
    persist(owner)
    reader = make()
    assert reader.covered(KEY, PATH) == 100
    for file in files(tmp_path / "kv"):
        file.unlink()
    assert matched(reader, KEY, PATH) == 0


def test_match_outlives_what_it_matched(make: Callable[..., KvStore]) -> None:
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


def test_nothing_stays_open(make: Callable[..., KvStore]) -> None:
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


def test_folder_that_cannot_be_made_leaves_memory(
    make: Callable[..., KvStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = make(tmp_path / "file" / "kv")
    add(store, KEY, PATH, 0)
    assert persist(store) == 0
    assert persist(store) == 0
    assert matched(store, KEY, PATH) == 100
    assert caplog.text.count("cannot be written to") == 1


def test_full_disk_is_told_once_and_memory_goes_on(
    make: Callable[..., KvStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert persist(store) == 0
        assert persist(store) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("cannot be written to disk") == 1
    assert caplog.records[-1].levelno == logging.WARNING
    assert list((tmp_path / "kv").iterdir()) == [tmp_path / "kv" / "lock"]
    assert matched(store, KEY, PATH) == 100
    assert persist(store) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_small_file_system_fills_up(
    make: Callable[..., KvStore], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no mount here: {mounted.stderr.decode().strip()}")
    store = make(folder / "kv")
    try:
        paths = [list(range(tail, tail + 1000)) for tail in range(0, 5000, 1000)]
        for path in paths:
            add(store, KEY, path, 0)
            persist(store)
        assert os.strerror(errno.ENOSPC) in str([vars(record) for record in caplog.records])
        assert [matched(store, KEY, path) for path in paths] == [1000] * 5
        store.close()
        assert matched(make(folder / "kv"), KEY, paths[0]) == 1000
    finally:
        store.close()
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_rows_are_sealed_against_their_maker(make: Callable[..., KvStore]) -> None:
    store = make(None)
    descriptor = memory_file(block(KEY, PATH, 0))
    theirs = os.dup(descriptor)
    store.add(KEY, PATH, 0, descriptor, PLANES)
    with pytest.raises(PermissionError):
        os.truncate(theirs, 0)
    with pytest.raises(PermissionError):
        os.pwrite(theirs, b"x", 0)
    os.close(theirs)


def test_lock_ends_with_its_owner(tmp_path: Path) -> None:
    one, two = KvFolder(tmp_path / "kv"), KvFolder(tmp_path / "kv")
    assert one.try_own()
    assert not two.try_own()
    assert not two.is_owned
    one.close()
    assert two.try_own()
    two.close()

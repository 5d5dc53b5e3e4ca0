"""What may be wrong with a disk, and who else may be on it."""

import asyncio
import errno
import logging
import os
import resource
import subprocess
from pathlib import Path

import pytest

from edgeagent.execution.kvstore.folder import KvFolder
from tests.execution.kvstore.rows import KEY, PATH, Make, add, files, matched, persist


def test_prepare_verifies_before_match(make: Make, tmp_path: Path) -> None:
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
def test_damaged_file_ends_the_match_and_goes(make: Make, tmp_path: Path, offset: int) -> None:
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
def test_file_cut_short_is_not_believed(make: Make, tmp_path: Path, kept: int) -> None:
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


def test_file_damaged_after_the_scan_is_found_out(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    store.close()
    again = make()
    assert again.covered(KEY, PATH) == 100
    os.truncate(files(tmp_path / "kv")[0], 900)
    assert matched(again, KEY, PATH) == 0
    assert again.covered(KEY, PATH) == 0


def test_file_under_the_name_of_another_path_is_not_believed(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    add(store, KEY, PATH[::-1], 0)
    persist(store)
    store.close()
    one, two = files(tmp_path / "kv")
    one.replace(two)
    assert matched(make(), KEY, PATH) == 0
    assert matched(make(), KEY, PATH[::-1]) == 0


def test_foreign_files_are_left_alone(make: Make, tmp_path: Path) -> None:
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


def test_second_process_reads_and_takes_over(make: Make, tmp_path: Path) -> None:
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


def test_reader_survives_what_the_owner_deletes(make: Make, tmp_path: Path) -> None:
    owner = make()
    add(owner, KEY, PATH, 0)
    persist(owner)
    reader = make()
    assert reader.covered(KEY, PATH) == 100
    for file in files(tmp_path / "kv"):
        file.unlink()
    assert matched(reader, KEY, PATH) == 0


def test_folder_that_cannot_be_made_leaves_memory(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = make(tmp_path / "file" / "kv")
    add(store, KEY, PATH, 0)
    assert persist(store) == 0
    assert persist(store) == 0
    assert matched(store, KEY, PATH) == 100
    assert caplog.text.count("cannot be written to") == 1


def test_full_disk_is_told_once_and_memory_goes_on(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
def test_small_file_system_fills_up(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


def test_lock_ends_with_its_owner(tmp_path: Path) -> None:
    one, two = KvFolder(tmp_path / "kv"), KvFolder(tmp_path / "kv")
    assert one.try_own()
    assert not two.try_own()
    assert not two.is_owned
    one.close()
    assert two.try_own()
    two.close()


def test_store_is_usable_while_it_reads_the_folder(make: Make) -> None:
    store = make()
    paths = [[tail, *PATH] for tail in range(80)]  # more files than headers are read at once
    for path in paths:
        add(store, KEY, path, 0)
    add(store, KEY, [*paths[-1], 7], 101)
    add(store, KEY, [*paths[-1], 8], 101)
    assert persist(store) == 82
    store.close()
    again = make()

    async def use_while_reading() -> None:
        reading = asyncio.create_task(again.prepare(KEY, paths[0]))
        await asyncio.sleep(0)
        while not reading.done():
            assert matched(again, KEY, paths[-1]) in (0, 101)
            add(again, KEY, paths[-1], 0)
            add(again, KEY, [*paths[-1], 9], 101)
            await asyncio.sleep(0)
        await reading

    asyncio.run(use_while_reading())
    assert [matched(again, KEY, path) for path in paths] == [101] * 80
    assert [matched(again, KEY, [*paths[-1], tail]) for tail in (7, 8, 9)] == [102] * 3

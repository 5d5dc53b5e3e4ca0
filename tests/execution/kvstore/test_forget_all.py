"""Somebody forgets what may be in kept rows: they go, whoever has them."""

import asyncio
from pathlib import Path

import pytest

from edgeagent.core.errors import MemoryStoreError
from edgeagent.execution.kvstore.folder import MARK, forget_all
from edgeagent.parts import forget_kept
from tests.execution.kvstore.rows import KEY, PATH, Make, add, files, matched, persist


def test_files_go_at_once_and_the_owner_forgets_what_it_has_in_memory(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    add(store, "another model", PATH, 0)  # in memory alone
    forget_all(tmp_path / "kv")
    assert files(tmp_path / "kv") == []
    assert matched(store, KEY, PATH) == 0
    assert matched(store, "another model", PATH) == 0
    stats = store.stats()
    assert (stats.ram_bytes, stats.disk_bytes, stats.num_blocks, stats.num_damaged) == (0, 0, 0, 0)
    assert not (tmp_path / "kv" / MARK).exists()


def test_what_waits_to_be_written_is_not_written_any_more(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    add(store, KEY, [*PATH, 7], 100)
    forget_all(tmp_path / "kv")
    assert asyncio.run(store.persist()) == 0
    assert files(tmp_path / "kv") == []


def test_what_is_evaluated_afterwards_is_kept_again(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    forget_all(tmp_path / "kv")
    assert matched(store, KEY, PATH) == 0
    add(store, KEY, PATH, 0)
    persist(store)
    assert matched(store, KEY, PATH) == len(PATH)


def test_without_an_owner_the_files_go_and_the_next_one_finds_nothing(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    store.close()
    forget_all(tmp_path / "kv")
    assert files(tmp_path / "kv") == []
    assert matched(make(), KEY, PATH) == 0


def test_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    forget_all(tmp_path / "kv")
    assert not (tmp_path / "kv").exists()


def test_other_files_stay(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    own = tmp_path / "kv" / "notes.txt"
    own.touch()
    forget_all(tmp_path / "kv")
    assert own.exists()


def test_what_cannot_be_deleted_is_told(make: Make, tmp_path: Path) -> None:
    store = make()
    add(store, KEY, PATH, 0)
    persist(store)
    [file] = files(tmp_path / "kv")
    file.unlink()
    file.mkdir()
    with pytest.raises(MemoryStoreError, match="prompts with it are kept in"):
        forget_kept(tmp_path / "kv")

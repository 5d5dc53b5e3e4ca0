"""Unused parts of pages, on files that SQLite itself has written."""

from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeagent.agent.memory.residue import page_size, unused_parts


def pages_of(path: Path) -> list[bytes]:
    content = path.read_bytes()
    size = page_size(content)
    return [content[at : at + size] for at in range(0, len(content), size)]


def unused(path: Path) -> bytes:
    return b"|".join(part for i, page in enumerate(pages_of(path)) for part in unused_parts(page, is_first=i == 0))


@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_deleted_rows_are_unused_parts_and_a_new_file_has_none(tmp_path: Path, size: int) -> None:
    db = apsw.Connection(str(tmp_path / "db"))
    db.execute(f"PRAGMA page_size = {size}; CREATE TABLE t (text TEXT)")
    db.execute("PRAGMA secure_delete = ON")
    with db:
        db.executemany("INSERT INTO t VALUES (?)", [(f"row number {i:05d}",) for i in range(400)])
    db.execute("VACUUM")
    assert unused(tmp_path / "db") == b""
    db.execute("PRAGMA secure_delete = OFF")
    db.execute("DELETE FROM t WHERE rowid IN (7, 9)")
    found = unused(tmp_path / "db")
    assert all(b"number %05d" % i in found for i in (6, 8))
    db.close()


@given(page=st.binary(min_size=512, max_size=512), kind=st.sampled_from([2, 5, 10, 13]), is_first=st.booleans())
def test_any_bytes_are_read_to_an_end(page: bytes, kind: int, is_first: bool) -> None:
    head = 100 if is_first else 0
    page = page[:head] + bytes([kind]) + page[head + 1 :]
    assert sum(map(len, unused_parts(page, is_first=is_first))) <= 512 * 512

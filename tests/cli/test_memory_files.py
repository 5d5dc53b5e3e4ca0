"""Files of memories: replaced as wholes or not at all, and read without holding them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeagent.agent.memory.portable import HEADER
from edgeagent.cli.memory_files import MAX_LINE_BYTES, Export, write_export
from edgeagent.core.errors import MemoryStoreError, RequestError
from edgeagent.core.memory import MemoryItem


def item(number: int) -> MemoryItem:
    return MemoryItem(id=f"m{number}", user="ann", kind="note", text=f"Text {number}.", source="", created_at=1e9)


async def items(count: int, failure: Exception | None = None) -> AsyncIterator[MemoryItem]:
    for number in range(count):
        yield item(number)
    if failure:
        raise failure


def test_export_that_breaks_off_leaves_the_former_one(tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    assert asyncio.run(write_export(items(2), file)) == 2
    former = file.read_bytes()
    with pytest.raises(MemoryStoreError):
        asyncio.run(write_export(items(1, MemoryStoreError("the disk is full")), file))
    assert file.read_bytes() == former
    assert [path.name for path in tmp_path.iterdir()] == ["backup.jsonl"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_export_goes_to_a_device_as_it_is() -> None:
    assert asyncio.run(write_export(items(1), Path("/dev/null"))) == 1
    assert Path("/dev/null").is_char_device()
    with pytest.raises(RequestError, match="No space left"):
        asyncio.run(write_export(items(1), Path("/dev/full")))


def test_export_is_read_several_times(tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    asyncio.run(write_export(items(3), file))
    export = Export(file)
    assert list(export) == list(export) == [item(number) for number in range(3)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"\xff", "not UTF-8"),
        (b"x" * (MAX_LINE_BYTES + 1), "no export"),
        (json.dumps({"text": "\ud800"}).encode(), "line 2"),
    ],
)
def test_damaged_line_is_one_clear_error(tmp_path: Path, line: bytes, complaint: str) -> None:
    file = tmp_path / "backup.jsonl"
    file.write_bytes(HEADER.encode() + b"\n" + line)
    with pytest.raises(RequestError, match=complaint):
        list(Export(file))


def test_absent_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read"):
        list(Export(tmp_path / "absent"))
    with pytest.raises(RequestError, match="cannot write"):
        asyncio.run(write_export(items(1), tmp_path / "absent" / "backup"))

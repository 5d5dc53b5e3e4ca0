"""Rows that tell which path they belong to, as a worker would hand them over, and as it would read them back."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeagent.execution.kvstore.store import KvLimits, KvStore, Match

Make = Callable[..., KvStore]
"""The fixture `make`: a store of a folder (the test's own), limits and a clock."""

KEY = "model build q8_0"
PATH = list(range(100, 200))
PLANES = (3, 8, 5)
CELL_BYTES = sum(PLANES)
AMPLE = KvLimits(2**30, 2**30)


class Clock:
    """Each look at it is a second later."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def cell_rows(key: str, path: Sequence[int], planes: Sequence[int] = PLANES) -> list[bytes]:
    """The row of each plane of the last cell of `path`."""
    digest = hashlib.blake2b(repr((key, list(path))).encode()).digest()
    return [(digest * (-(-row_bytes // 64)))[:row_bytes] for row_bytes in planes]


def block(key: str, path: Sequence[int], first: int, planes: Sequence[int] = PLANES) -> bytes:
    """Cells `[first, len(path))`, plane after plane."""
    cells = [cell_rows(key, path[: end + 1], planes) for end in range(first, len(path))]
    return b"".join(cell[plane] for plane in range(len(planes)) for cell in cells)


def memory_file(data: bytes) -> int:
    descriptor = os.memfd_create("rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, data)
    return descriptor


def add(store: KvStore, key: str, path: Sequence[int], first: int, planes: Sequence[int] = PLANES) -> None:
    store.add(key, path, first, memory_file(block(key, path, first, planes)), planes)


def read(match: Match, planes: Sequence[int] = PLANES) -> bytes:
    """All matched cells in block form."""
    columns: list[list[bytes]] = [[] for _ in planes]
    for part in match.parts:
        start = 0
        for column, row_bytes in zip(columns, planes, strict=True):
            column.append(os.pread(part.descriptor, part.take * row_bytes, start + part.skip * row_bytes))
            start += part.num_cells * row_bytes
    return b"".join(rows for column in columns for rows in column)


def matched(store: KvStore, key: str, path: Sequence[int], planes: Sequence[int] = PLANES) -> int:
    """How many cells of `path` are there; fails when their rows are not those of this path."""
    match = store.match(key, path)
    if match is None:
        return 0
    with match:
        assert read(match, planes) == block(key, path[: match.num_cells], 0, planes)
        return match.num_cells


def persist(store: KvStore) -> int:
    return asyncio.run(store.persist())


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kv"))


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

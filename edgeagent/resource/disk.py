"""How fast the disk delivers a file, past the page cache."""

import contextlib
import mmap
import os
import time
from pathlib import Path

BLOCK_BYTES = 4 * 2**20
LEAST_BYTES = 16 * 2**20
"""Of less, seek and start-up dominate: no rate is told."""


def read_rate(path: Path, seconds: float) -> float | None:
    """Bytes a second of sequential reads over at most `seconds`; None for small files and where the cache stays in
    the way (file systems without direct reads). Blocks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return None
    try:
        return _timed(descriptor, seconds)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _timed(descriptor: int, seconds: float) -> float | None:
    total = 0
    with contextlib.closing(mmap.mmap(-1, BLOCK_BYTES)) as block:  # page-aligned, as direct reads demand
        started = time.perf_counter()
        while (spent_s := time.perf_counter() - started) < seconds:
            count = os.preadv(descriptor, [block], total)
            total += count
            if count < BLOCK_BYTES:
                spent_s = time.perf_counter() - started
                break
    return total / spent_s if total >= LEAST_BYTES else None

"""How fast a memory file takes memories: batches by the second, and single ones against the disk's own syncs.

A single insertion ends with one sync of the journal. So rounds of insertions alternate with rounds of plain writes of
as many bytes, each synced; the ratio is of the rates within a round, so that what else the disk does hits both.
"""

import os
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import apsw
import harness
import recall_encoder

from edgeagent.agent.memory.store import MemoryStore, NewMemory

BATCH = 1_000
ROUNDS, A_ROUND = 30, 40
CALLERS = 8
RAW_FILE_BYTES = 16 * 2**20
"""About what the journal grows to before it is moved into the file and begun anew."""


def measure(folder: Path, memories: Iterator[NewMemory], *, num_batches: int) -> tuple[harness.Json, harness.Json]:
    store = MemoryStore.open(folder / "inserts.sqlite", recall_encoder.DIMENSIONS)
    per_batch = [_batch_s(store, list(islice(memories, BATCH))) for _ in range(num_batches)]
    raw = _RawFile(folder / "raw", _journal_bytes(store, folder, memories))
    pairs = [(raw.seconds(), _single_s(store, list(islice(memories, A_ROUND)))) for _ in range(ROUNDS)]
    together = [(raw.seconds(), _together_s(store, list(islice(memories, A_ROUND)))) for _ in range(ROUNDS)]
    store.close()
    figures: harness.Json = {
        "batch_inserts_per_s": round(BATCH / statistics.median(wall for wall, _ in per_batch)),
        "batch_inserts_per_cpu_s": round(BATCH / statistics.median(cpu for _, cpu in per_batch)),
        "single_insert_ratio_to_fsync": round(statistics.median(raw_s / insert_s for raw_s, insert_s in pairs), 3),
        "single_insert_ratio_to_fsync_8_callers": round(statistics.median(r / i for r, i in together), 3),
        "single_inserts_per_s": round(1 / statistics.median(insert_s for _, insert_s in pairs)),
        "single_insert_beyond_fsync_ms": round(1e3 * statistics.median(i - r for r, i in pairs), 3),
    }
    conditions: harness.Json = {
        "fsync_ms": harness.spread([1e3 * raw_s for raw_s, _ in pairs]),
        "insert_ms": harness.spread([1e3 * insert_s for _, insert_s in pairs]),
        "fsync": f"one write of {raw.num_bytes} bytes, as an insertion makes, and its sync",
        "inserts": f"embedding excluded; batches of {BATCH}; single ones in {ROUNDS} rounds of {A_ROUND}, paired",
    }
    return figures, conditions


def _batch_s(store: MemoryStore, memories: list[NewMemory]) -> tuple[float, float]:
    """Wall and processor seconds."""
    started, started_cpu = time.perf_counter(), time.process_time()
    store.add("one", memories)
    return time.perf_counter() - started, time.process_time() - started_cpu


def _single_s(store: MemoryStore, memories: list[NewMemory]) -> float:
    """Seconds an insertion."""
    started = time.perf_counter()
    for memory in memories:
        store.add("one", [memory])
    return (time.perf_counter() - started) / len(memories)


def _together_s(store: MemoryStore, memories: list[NewMemory]) -> float:
    """Seconds an insertion, when so many callers wait at a time that their insertions share a sync."""
    started = time.perf_counter()
    for at in range(0, len(memories), CALLERS):
        store.add_all([("one", [memory]) for memory in memories[at : at + CALLERS]])
    return (time.perf_counter() - started) / len(memories)


def _journal_bytes(store: MemoryStore, folder: Path, memories: Iterator[NewMemory]) -> int:
    """What an insertion adds to the journal, on average."""
    other = apsw.Connection(str(folder / "inserts.sqlite"))
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    for memory in islice(memories, A_ROUND):
        store.add("one", [memory])
    return (folder / "inserts.sqlite-wal").stat().st_size // A_ROUND


class _RawFile:
    """Written over and over, as a journal is."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._file = os.open(path, os.O_CREAT | os.O_RDWR)
        self._data = os.urandom(num_bytes)
        self._at = 0
        os.write(self._file, bytes(RAW_FILE_BYTES))
        os.fsync(self._file)

    def seconds(self) -> float:
        """A write and its sync."""
        started = time.perf_counter()
        for _ in range(A_ROUND):
            os.pwrite(self._file, self._data, self._at)
            os.fsync(self._file)
            self._at = (self._at + self.num_bytes) % (RAW_FILE_BYTES - self.num_bytes)
        return (time.perf_counter() - started) / A_ROUND

"""The disk is full or fails at any one call: reads go on, the error is clear, and nothing is damaged."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import apsw
import pytest

from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.store import MemoryStore
from edgeagent.core.errors import MemoryStoreError
from tests.agent.memory.faulty_disk import CHANGES, READS, Faults, failing
from tests.agent.memory.workload import DIMENSIONS, State, Workload, described, left_in

FILE = "memory.sqlite"
QUESTION = Question("Who said padding?", b"\0\0\x80\x3f" * DIMENSIONS, 1.7e9)
ADVICE = {apsw.FullError: "free some space", apsw.IOError: "check the disk"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


def filled(path: Path) -> Workload:
    """A file with memories, and the changes that go on."""
    workload = Workload("ann", random.Random(5))
    store = MemoryStore.open(path, DIMENSIONS)
    for _ in range(30):
        change, workload.state = workload.next()
        change(store)
    store.close()
    return workload


def read_all(store: MemoryStore) -> State:
    assert store.search("ann", QUESTION, 3)
    assert store.stats("ann").memories
    return frozenset(map(described, store.list("ann", 1000)))


def changed_under_faults(store: MemoryStore, workload: Workload, faults: Faults, at: int) -> bool:
    """Make three changes while the disk fails; whether it did. What was refused must not be there, or whole."""
    failed = False
    for _ in range(3):
        change, after = workload.next()
        faults.arm(at)
        if (complaint := complaint_of(partial(change, store))) is not None:
            failed = True
            assert ADVICE[faults.error] in complaint
            assert read_all(store) in (workload.state, after)
            faults.arm(0)
            after = read_all(store)
        faults.arm(0)
        workload.state = after
    return failed


def complaint_of(work: Callable[[], object]) -> str | None:
    try:
        work()
    except MemoryStoreError as error:
        return str(error)
    return None


def every_call(error: type[apsw.Error], *, lasts: bool) -> Iterator[tuple[Faults, int]]:
    for at in count(1):
        yield Faults(error, lasts=lasts), at


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lasts", [False, True])
@pytest.mark.parametrize("error", [apsw.FullError, apsw.IOError])
def test_change_on_a_failing_disk_is_one_clear_error_and_reads_go_on(
    path: Path, error: type[apsw.Error], lasts: bool
) -> None:
    workload = filled(path)
    for faults, at in every_call(error, lasts=lasts):
        with failing(faults):
            store = MemoryStore.open(path, DIMENSIONS)
            failed = changed_under_faults(store, workload, faults, at)
            store.close()
        assert left_in(path, "ann") == (workload.state,)
        if not failed:
            break
    assert at > 10


def opened_and_closed(path: Path) -> None:
    MemoryStore.open(path, DIMENSIONS).close()


# Where SQLite goes on in spite of an error, apsw tells Python of it all the same.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_opening_on_a_disk_that_fails_once_is_one_clear_error_and_the_next_one_works(tmp_path: Path) -> None:
    for at in count(1, 7):  # a new file takes some 150 calls
        path = tmp_path / str(at) / FILE
        faults = Faults(apsw.IOError, CHANGES | READS)
        with failing(faults):
            faults.arm(at)
            complaint = complaint_of(partial(opened_and_closed, path))
            faults.arm(0)
            opened_and_closed(path)
        assert left_in(path, "ann") == (frozenset(),)
        if complaint is None:
            break
        assert "check the disk" in complaint
    assert at > 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_reading_from_a_disk_that_fails_once_is_one_clear_error_and_the_next_time_works(path: Path) -> None:
    workload = filled(path)
    for at in count(1):
        faults = Faults(apsw.IOError, READS)
        with failing(faults):
            store = MemoryStore.open(path, DIMENSIONS)
            store._db.execute("PRAGMA cache_size = 1")  # so that there is something to read
            faults.arm(at)
            complaint = complaint_of(partial(read_all, store))
            faults.arm(0)
            assert read_all(store) == workload.state
            store.close()
        if complaint is None:
            break
        assert "check the disk" in complaint
    assert at > 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_memories_can_be_read_while_the_disk_stays_full(path: Path) -> None:
    workload = filled(path)
    faults = Faults(apsw.FullError, frozenset({"write", "truncate"}), lasts=True)
    with failing(faults):
        faults.arm(1)
        store = MemoryStore.open(path, DIMENSIONS)
        for _ in range(3):
            assert read_all(store) == workload.state
            with pytest.raises(MemoryStoreError, match="free some space"):
                workload.next()[0](store)
        store.close()
    assert left_in(path, "ann") == (workload.state,)

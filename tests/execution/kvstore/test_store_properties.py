"""The store against a model of it, in any order of events: it may forget, but never returns rows of another path."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgeagent.execution.kvstore.store import KvLimits, KvStore
from tests.execution.kvstore.rows import AMPLE, CELL_BYTES, add, matched, num_open_files

KEYS = ("one", "two")
BRANCHES = 3
"""Symbols are few, so that paths share beginnings."""

paths = st.lists(st.integers(0, BRANCHES - 1), min_size=1, max_size=24)
keys = st.sampled_from(KEYS)
budgets = st.sampled_from([0, 10 * CELL_BYTES, 40 * CELL_BYTES, 2**30])
quotas = st.sampled_from([0, 900, 2500, 2**30])


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self.scratch.name) / "kv"
        self.now_s = 1_700_000_000.0
        self.known: set[tuple[str, tuple[int, ...]]] = set()
        """Cells ever added, each by the path it ends."""
        self.may_forget = False
        self.store = self.opened(AMPLE)

    def opened(self, limits: KvLimits) -> KvStore:
        self.limits = limits
        self.may_forget |= limits != AMPLE
        return KvStore(self.folder, limits, lambda: self.now_s)

    @initialize(ram=budgets, disk=quotas, is_ample=st.booleans())
    def choose_limits(self, ram: int, disk: int, is_ample: bool) -> None:
        self.store.close()
        self.store = self.opened(AMPLE if is_ample else KvLimits(ram, disk))

    @rule(key=keys, path=paths, share=st.floats(0, 1))
    def add(self, key: str, path: list[int], share: float) -> None:
        first = min(int(share * len(path)), len(path) - 1)
        covered = self.store.covered(key, path)
        add(self.store, key, path, first)
        if first <= covered:
            self.known |= {(key, tuple(path[: end + 1])) for end in range(first, len(path))}

    @rule(key=keys, path=paths, step=st.integers(1, 5))
    def generate(self, key: str, path: list[int], step: int) -> None:
        for end in range(self.store.covered(key, path) + 1, len(path) + 1, step):
            self.add(key, path[:end], self.store.covered(key, path) / end)

    @rule(key=keys, path=paths)
    def match(self, key: str, path: list[int]) -> None:
        found, ever_known = matched(self.store, key, path), self.num_known(key, path)
        assert found <= ever_known
        assert found == ever_known or self.may_forget
        assert self.store.covered(key, path) == found

    def num_known(self, key: str, path: list[int]) -> int:
        ends = range(1, len(path) + 1)
        return next((end - 1 for end in ends if (key, tuple(path[:end])) not in self.known), len(path))

    @rule()
    def persist(self) -> None:
        asyncio.run(self.store.persist())

    @rule(seconds=st.sampled_from([-100.0, 0.5, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(ram=budgets, disk=quotas)
    def restart(self, ram: int, disk: int) -> None:
        self.may_forget = True
        self.store.close()
        self.store = self.opened(KvLimits(ram, disk))

    @rule()
    def restart_after_persisting(self) -> None:
        self.persist()
        self.store.close()
        self.store = self.opened(self.limits)

    @rule(which=st.integers(0, 100), offset=st.floats(0, 1, exclude_max=True), is_cut=st.booleans())
    def damage(self, which: int, offset: float, is_cut: bool) -> None:
        self.may_forget = True
        self.store.close()
        if files := [file for file in sorted(self.folder.glob("*.kv")) if file.stat().st_size]:
            file = files[which % len(files)]
            data = bytearray(file.read_bytes())
            at = int(offset * len(data))
            data[at] ^= 1
            file.write_bytes(data[:at] if is_cut else data)
        self.store = self.opened(self.limits)

    @invariant()
    def budgets_are_kept(self) -> None:
        assert self.store.stats().ram_bytes <= self.limits.ram_bytes
        if self.limits.disk_bytes and self.store.covered("one", [0]) >= 0:  # it has looked at the folder
            on_disk = [file.stat().st_size for file in self.folder.glob("*.kv")]
            assert self.store.stats().disk_bytes == sum(on_disk) <= self.limits.disk_bytes

    def teardown(self) -> None:
        self.store.close()
        self.scratch.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_machine_leaves_no_descriptor_open() -> None:
    machine = StoreMachine()
    before = num_open_files()
    for end in range(3, 24, 3):
        machine.add("one", [0, 1, 2] * 8, 0.0)
        machine.generate("two", [1] * end, 2)
        machine.match("two", [1] * end)
        machine.persist()
    machine.teardown()
    assert num_open_files() == before

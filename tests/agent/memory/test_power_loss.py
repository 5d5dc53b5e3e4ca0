"""Power is lost at any moment: what was acknowledged is there afterwards, what was not is there whole or not at all."""

import random
from bisect import bisect_right
from pathlib import Path

import pytest

from edgeagent.agent.memory import database
from edgeagent.agent.memory.store import MemoryStore
from edgeagent.core.errors import MemoryStoreError
from tests.agent.memory.simulated_disk import MODES, SECTOR, Image, Journal, Mode, Write, journaling, put
from tests.agent.memory.workload import DIMENSIONS, State, Workload, left_in

NUM_CHANGES = 12
FILE = "memory.sqlite"


class Life:
    """From power on to power off: changes by one process, with now and then a restart of it."""

    def __init__(self, folder: Path, base: Image, state: State, seed: int, *, syncs: bool = True) -> None:
        self.journal = Journal(base, syncs=syncs)
        self._acknowledged = [(0, state)]
        put(base, folder)
        workload = Workload("ann", random.Random(seed), state)
        with journaling(self.journal):
            store = MemoryStore.open(folder / FILE, DIMENSIONS)
            if seed % 2:  # the journal is moved into the file in the middle of life
                store._db.execute("PRAGMA wal_autocheckpoint = 30")
            for i in range(NUM_CHANGES):
                change, workload.state = workload.next()
                change(store)
                self._acknowledged.append((len(self.journal.events), workload.state))
                if i % 5 == 4:
                    store.close()
                    store = MemoryStore.open(folder / FILE, DIMENSIONS)
            store.close()

    def possible(self, num_events: int) -> tuple[State, State]:
        """What may be left when power is lost then: without or with the change that was under way."""
        done = bisect_right([moment for moment, _ in self._acknowledged], num_events)
        return self._acknowledged[done - 1][1], self._acknowledged[min(done, NUM_CHANGES)][1]


class Outage:
    """Lives one after the other, each cut at some moments; the next starts from what one of them left."""

    def __init__(self, folder: Path, seed: int, *, syncs: bool = True) -> None:
        self._folder = folder
        self._draw = random.Random(seed)
        self._syncs = syncs
        self.num_lost = self.num_corrupt = 0

    def run(self, num_lives: int, cuts_a_life: int) -> None:
        base: Image = {}
        state: State = frozenset()
        for _ in range(num_lives):
            life = Life(self._folder / "running", base, state, self._draw.getrandbits(32), syncs=self._syncs)
            moments = sorted(self._draw.randint(0, len(life.journal.events)) for _ in range(cuts_a_life))
            survived = []
            for moment in moments:
                image = life.journal.image(moment, self._draw.choice(MODES), self._draw)
                if (left := self._left(life, moment, image)) is not None:
                    survived.append((image, left))
            if survived:
                base, state = self._draw.choice(survived)

    def _left(self, life: Life, moment: int, image: Image) -> State | None:
        put(image, self._folder / "cut")
        try:
            [left] = left_in(self._folder / "cut" / FILE, "ann")
        except (MemoryStoreError, AssertionError):
            self.num_corrupt += 1
            return None
        if left not in life.possible(moment):
            self.num_lost += 1
            return None
        return left


def outage(folder: Path, seed: int, num_lives: int, cuts_a_life: int, *, syncs: bool = True) -> tuple[int, int]:
    """Cuts that lost an acknowledged change, and cuts that left a damaged file."""
    made = Outage(folder, seed, syncs=syncs)
    made.run(num_lives, cuts_a_life)
    return made.num_lost, made.num_corrupt


def test_500_power_cuts_lose_and_damage_nothing(tmp_path: Path) -> None:
    assert outage(tmp_path, seed=1, num_lives=25, cuts_a_life=20) == (0, 0)


def test_power_cuts_under_a_weaker_setting_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database.PRAGMAS, "synchronous", ("normal", 1))
    num_lost, num_corrupt = outage(tmp_path, seed=1, num_lives=3, cuts_a_life=12)
    assert num_lost > 0
    assert num_corrupt == 0


def test_power_cuts_on_a_disk_that_does_not_sync_are_noticed(tmp_path: Path) -> None:
    num_lost, num_corrupt = outage(tmp_path, seed=1, num_lives=3, cuts_a_life=12, syncs=False)
    assert num_lost > 0
    assert num_corrupt > 0


@pytest.mark.parametrize("mode", MODES)
def test_unsynced_changes_reach_a_cut_disk_as_its_mode_says(mode: Mode) -> None:
    journal = Journal({"f": bytes(64 * SECTOR)})
    for i in range(64):
        journal.changed("f", Write(i * SECTOR, b"a" * SECTOR))
    image = journal.image(64, mode, random.Random(3))["f"]
    arrived = image.rstrip(b"\0")
    assert (len(arrived) == 0) == (mode == "drop")
    assert (image == b"a" * 64 * SECTOR) == (mode == "keep")
    assert (b"\0" in arrived) == (mode == "reorder")
    journal.synced("f", with_folder=False)
    assert journal.image(65, mode, random.Random(3))["f"] == b"a" * 64 * SECTOR


def test_a_name_is_sure_only_once_its_folder_was_synced() -> None:
    journal = Journal({"old": b"o"})
    journal.created("new")
    journal.deleted("old")
    found = {frozenset(journal.image(2, "keep", random.Random(seed))) for seed in range(30)}
    assert found == {frozenset(names) for names in ((), ("old",), ("new",), ("old", "new"))}
    journal.folder_synced()
    assert set(journal.image(3, "drop", random.Random(1))) == {"new"}

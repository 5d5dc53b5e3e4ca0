"""Which texts are measured first."""

from array import array
from pathlib import Path

from edgeagent.agent.memory.measures import Measure
from edgeagent.agent.memory.store import MemoryStore, NewMemory

DIMENSIONS = 64


def text(number: int, kind: str = "document") -> NewMemory:
    """The later ones by an earlier clock."""
    return NewMemory(kind, f"text {number}", "", 1e9 - number, array("f", [1.0] * DIMENSIONS).tobytes())


def test_users_take_turns_each_with_what_was_stored_last_and_only_what_reductions_read(tmp_path: Path) -> None:
    store = MemoryStore.open(tmp_path / "memory.sqlite", DIMENSIONS)
    store.add("ann", [text(0), text(1), text(2, "note"), text(3, "turn")])
    store.add("bob", [text(4), text(5), text(6, "summary"), text(7), text(8)])
    found = store.unmeasured(10)
    assert [one.text for one in found] == [f"text {n}" for n in (8, 3, 7, 1, 5, 0, 4)]
    assert store.unmeasured(2) == found[:2]
    store.keep_measures([(one, Measure((1.0, 2.0), 2, 7)) for one in found[:3]])
    assert [one.text for one in store.unmeasured(10)] == [f"text {n}" for n in (5, 1, 4, 0)]
    store.close()

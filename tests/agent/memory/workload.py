"""What a memory file is put through while processes, power and disks fail under it, and what must be left of it."""

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgeagent.agent.memory.store import MemoryStore, NewMemory

DIMENSIONS = 64
NUM_KEPT = 40
"""From so many memories on, more are forgotten than added."""

State = frozenset[str]
"""The texts in a namespace."""
Change = Callable[[MemoryStore], object]


@dataclass(slots=True)
class Workload:
    """Random changes of one user's memories: `next` gives one, and the texts there are once it was acknowledged."""

    user: str
    draw: random.Random
    state: State = frozenset()
    _count: int = field(default=0)

    def next(self) -> tuple[Change, State]:
        if self.state and self.draw.random() < (0.7 if len(self.state) > NUM_KEPT else 0.25):
            gone = self.draw.choice(sorted(self.state))
            return self._forget(gone), self.state - {gone}
        memories = [self._memory() for _ in range(self.draw.choice((1, 1, 1, 2, 6)))]
        return lambda store: store.add(self.user, memories), self.state | {memory.text for memory in memories}

    def _forget(self, text: str) -> Change:
        def forget(store: MemoryStore) -> None:
            [id_] = store.ids(self.user, [text])
            assert id_ is not None
            store.forget(self.user, id_)

        return forget

    def _memory(self) -> NewMemory:
        self._count += 1
        filler = "padding " * self.draw.choice((0, 1, 5, 30, 800))
        text = f"{self.draw.choice(('Ann', 'Bob', 'Eve'))}: {self.draw.getrandbits(60):x} said {filler}"
        vector = array("f", [self.draw.choice((-1.0, 1.0)) for _ in range(DIMENSIONS)]).tobytes()
        return NewMemory(self.draw.choice(("note", "turn")), text, f"source {self._count // 10}", 1.7e9, vector)


def left_in(path: Path, *users: str) -> tuple[State, ...]:
    """The texts of each user in a file that opens, is sound, and whose index and counters agree with its rows."""
    store = MemoryStore.open(path, DIMENSIONS)
    db = store._db
    assert db.pragma("integrity_check") == "ok"
    db.execute("INSERT INTO memory_words (memory_words, rank) VALUES ('integrity-check', 1)")
    assert db.execute("SELECT row FROM memories EXCEPT SELECT row FROM traces").fetchall() == []
    counted = db.execute("SELECT number, num_memories, num_terms FROM namespaces ORDER BY number").fetchall()
    weighed = "SELECT namespace, count(*), sum(num_terms) FROM traces GROUP BY namespace ORDER BY namespace"
    assert counted == db.execute(weighed).fetchall()
    states = tuple(frozenset(item.text for item in store.page(user, None, 10_000)) for user in users)
    store.close()
    return states

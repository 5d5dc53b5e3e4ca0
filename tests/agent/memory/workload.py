"""What a memory file is put through while processes, power and disks fail under it, and what must be left of it."""

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.memory import MemoryItem, Record

DIMENSIONS = 64
NUM_KEPT = 40
"""From so many memories on, more are forgotten than added."""

CLOCK = count(1_700_000_000)
"""Later facts are newer, whichever workload makes them."""
HOLDS = "holds: "
State = frozenset[str]
"""The texts in a namespace; a record's with its body behind it, and a mark when it holds."""
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
        if self.draw.random() < 0.2:
            return self._fact()
        memories = [self._memory() for _ in range(self.draw.choice((1, 1, 1, 2, 6)))]
        return lambda store: store.add(self.user, memories), self.state | {memory.text for memory in memories}

    def _fact(self) -> tuple[Change, State]:
        """One more value of one of three topics; what held becomes history."""
        topic, value = f"topic{self.draw.randrange(3)}", f"{self.draw.getrandbits(60):x}"
        made = self._memory()
        record = Record(topic=topic, body=value, valid_from=float(next(CLOCK)))
        memory = NewMemory("fact", f"{topic} is {value}", "", record.valid_from, made.vector, record)
        holding = {text for text in self.state if text.startswith(f"{HOLDS}{topic} ")}
        former = {text.removeprefix(HOLDS) for text in holding}
        return lambda store: store.add(self.user, [memory]), self.state - holding | former | {HOLDS + memory.text}

    def _forget(self, text: str) -> Change:
        def forget(store: MemoryStore) -> None:
            [id_] = [item.id for item in store.page(self.user, 0, 10_000)[0] if described(item) == text]
            store.forget(self.user, id_)

        return forget

    def _memory(self) -> NewMemory:
        self._count += 1
        filler = "padding " * self.draw.choice((0, 1, 5, 30, 800))
        text = f"{self.draw.choice(('Ann', 'Bob', 'Eve'))}: {self.draw.getrandbits(60):x} said {filler}"
        vector = array("f", [self.draw.choice((-1.0, 1.0)) for _ in range(DIMENSIONS)]).tobytes()
        return NewMemory(self.draw.choice(("note", "turn")), text, f"source {self._count // 10}", 1.7e9, vector)


def described(item: MemoryItem) -> str:
    return HOLDS + item.text if item.record and item.record.valid_until is None else item.text


def left_in(path: Path, *users: str) -> tuple[State, ...]:
    """The texts of each user in a file that opens, is sound, and whose index and counters agree with its rows."""
    store = MemoryStore.open(path, DIMENSIONS)
    db = store._db
    db.execute("PRAGMA synchronous = OFF")  # what is done to it from here on does not matter
    assert db.pragma("integrity_check") == "ok"
    db.execute("INSERT INTO memory_words (memory_words, rank) VALUES ('integrity-check', 1)")
    untraced = "SELECT row FROM memories EXCEPT SELECT row FROM traces"
    history = "SELECT row FROM records WHERE valid_until IS NOT NULL"
    assert sorted(db.execute(untraced)) == sorted(db.execute(history))
    assert db.execute("SELECT row FROM records EXCEPT SELECT row FROM memories").fetchall() == []
    assert db.execute("SELECT namespace FROM memories EXCEPT SELECT number FROM namespaces").fetchall() == []
    counting = "SELECT number, num_memories, num_terms FROM namespaces WHERE num_memories > 0 ORDER BY number"
    counted = db.execute(counting).fetchall()
    weighed = "SELECT namespace, count(*), sum(num_terms) FROM traces GROUP BY namespace ORDER BY namespace"
    assert counted == db.execute(weighed).fetchall()
    states = tuple(frozenset(map(described, store.page(user, 0, 10_000)[0])) for user in users)
    store.close()
    return states

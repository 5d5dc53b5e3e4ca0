"""Records in the store: what holds, what was superseded, worth, quota, and a copy of the file."""

import random
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.records import topic_of
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import NotFoundError, QuotaError, RequestError
from edgeagent.core.memory import Record

DIMENSIONS = 384
HOME = topic_of("fact", "Clara", "lives in")


def vector(seed: int, flipped: int = 0) -> bytes:
    draw = random.Random(seed)
    values = [draw.choice((-1.0, 1.0)) for _ in range(DIMENSIONS)]
    return array("f", [-value if i < flipped else value for i, value in enumerate(values)]).tobytes()


def fact(value: str, at: float, until: float | None = None) -> NewMemory:
    record = Record(topic=HOME, body=value, valid_from=at, valid_until=until)
    return NewMemory("fact", f"Clara lives in {value}", "", at, vector(len(value)), record)


def note(text: str, seed: int = 0, kind: str = "note", at: float = 1e9, flipped: int = 0) -> NewMemory:
    return NewMemory(kind, text, "", at, vector(seed, flipped))


def opened(folder: Path, max_memories: int | None = None) -> MemoryStore:
    return MemoryStore.open(folder / "memory.sqlite", DIMENSIONS, None, max_memories)


def recalled(store: MemoryStore, user: str = "ann") -> list[str]:
    return [hit.item.text for hit in store.search(user, Question("Where does Clara live?", vector(1), 2e9), 10)]


def known(store: MemoryStore, user: str = "ann") -> list[tuple[str, float, float | None]]:
    items = store.history(user, HOME)
    return [(i.record.body, i.record.valid_from, i.record.valid_until) for i in items if i.record]


def test_newer_fact_supersedes_and_history_is_kept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add("ann", [fact("Lisbon", 1e9)])
    store.add("ann", [fact("Porto", 1.1e9)])
    store.add("ann", [fact("Lisbon", 1.2e9)])
    assert recalled(store) == ["Clara lives in Lisbon"]
    assert known(store) == [("Lisbon", 1e9, 1.1e9), ("Porto", 1.1e9, 1.2e9), ("Lisbon", 1.2e9, None)]
    assert store.stats("ann").memories == 3
    store.close()


def test_fact_that_is_known_already_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    [id_] = store.add("ann", [fact("Lisbon", 1e9)])
    assert store.add("ann", [fact("Lisbon", 1.1e9)]) == [id_]
    assert known(store) == [("Lisbon", 1e9, None)]
    store.close()


def test_older_fact_that_comes_later_is_history(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add("ann", [fact("Porto", 1.1e9), fact("Lisbon", 1e9)])
    assert recalled(store) == ["Clara lives in Porto"]
    assert known(store) == [("Lisbon", 1e9, 1.1e9), ("Porto", 1.1e9, None)]
    store.close()


def test_older_fact_that_is_history_already_is_known(tmp_path: Path) -> None:
    store = opened(tmp_path)
    [old] = store.add("ann", [fact("Lisbon", 1e9)])
    store.add("ann", [fact("Porto", 1.1e9)])
    assert store.add("ann", [fact("Lisbon", 1.05e9)]) == [old]
    assert known(store) == [("Lisbon", 1e9, 1.1e9), ("Porto", 1.1e9, None)]
    store.close()


def test_facts_that_change_back_and_forth_in_one_moment_are_kept_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for value in ("Lisbon", "Porto", "Lisbon", "Porto", "Lisbon"):
        store.add("ann", [fact(value, 1e9)])
    assert [until for _, _, until in known(store)].count(None) == 1
    assert {body for body, _, until in known(store) if until} == {"Lisbon", "Porto"}
    assert recalled(store) == ["Clara lives in Lisbon"]
    assert store._db.execute("SELECT num_memories FROM namespaces").get == 1
    store.close()


def test_facts_of_users_and_agents_do_not_supersede_each_other(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for user, value in (("ann", "Lisbon"), ("bob", "Porto"), ("ann/cook", "Faro")):
        store.add(user, [fact(value, 1e9)])
    for user, value in (("ann", "Lisbon"), ("bob", "Porto"), ("ann/cook", "Faro")):
        assert recalled(store, user) == [f"Clara lives in {value}"]
    store.close()


def test_namespace_that_holds_only_history_keeps_its_number(tmp_path: Path) -> None:
    store = opened(tmp_path)
    [old] = store.add("ann", [fact("Lisbon", 1e9)])
    [new] = store.add("ann", [fact("Porto", 1.1e9)])
    store.forget("ann", new)
    store.add("bob", [note("Bob's own")])
    assert recalled(store) == []
    assert [item.id for item in store.list("ann", 10)] == [old]
    assert [item.text for item in store.list("bob", 10)] == ["Bob's own"]
    store.forget("ann", old)
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not [trace for trace in (b"Lisbon", b"Porto", b"lives in", b"clara") if trace in left]
    store.close()


def test_judgements_move_the_worth_and_late_ones_count(tmp_path: Path) -> None:
    store = opened(tmp_path)
    [id_] = store.add("ann", [fact("Lisbon", 1e9)])
    assert [store.judge("ann", id_, is_good=good) for good in (True, True, False)] == pytest.approx([1, 1, 1 / 3])
    for _ in range(100):
        store.judge("ann", id_, is_good=True)
    assert store.judge("ann", id_, is_good=False) == pytest.approx(0.8, abs=0.01)
    with pytest.raises(NotFoundError):
        store.judge("bob", id_, is_good=True)
    store.close()


def test_correction_keeps_the_id_and_leaves_no_trace_of_the_former_text(tmp_path: Path) -> None:
    store = opened(tmp_path)
    id_, other = store.add("ann", [note("zanzibarquux is here", 1), note("another", 2)])
    store.correct("ann", id_, note("the right words", 3))
    assert store.item("ann", id_).text == "the right words"
    assert b"zanzibarquux" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    with pytest.raises(RequestError, match="already"):
        store.correct("ann", other, note("the right words", 3))
    with pytest.raises(NotFoundError):
        store.correct("bob", id_, note("mine now", 4))
    assert store.item("ann", other).text == "another"
    store.close()


def test_full_namespace_refuses_more_and_others_go_on(tmp_path: Path) -> None:
    store = opened(tmp_path, max_memories=3)
    ids = store.add("ann", [note(f"note {i}", i) for i in range(3)])
    with pytest.raises(QuotaError, match="over 3 memories"):
        store.add("ann", [note("note 0"), note("one more", 9)])
    assert store.add("ann", [note("note 0")]) == ids[:1]
    assert len(store.add("bob", [note("one more", 9)])) == 1
    store.forget("ann", ids[0])
    assert len(store.add("ann", [note("one more", 9)])) == 1
    store.close()


def test_repeated_are_near_ones_that_say_nothing_of_their_own(tmp_path: Path) -> None:
    store = opened(tmp_path)
    texts = (
        note("The pump was descaled in May 2024.", 1),
        note("In May 2024 the pump was descaled!", 1, flipped=20),
        note("The pump was descaled in May 2023.", 1, flipped=3),
        note("The pump was not descaled in May 2024.", 1, flipped=4),
        note("The pump was descaled in May 2024 by Bob.", 1, flipped=20),
        note("The pump was descaled in May 2024 by Eve.", 2),
    )
    ids = store.add("ann", list(texts))
    store.add("bob", [note("The pump was descaled in May 2024", 1)])
    assert store.repeated("ann") == {ids[0]: ids[4]}
    store.close()


def test_faded_are_the_superseded_then_the_oldest_and_least_worth(tmp_path: Path) -> None:
    store = opened(tmp_path)
    ids = store.add("ann", [note(f"turn {i}", i, "turn", 1e9 + i) for i in range(4)])
    store.add("ann", [note("a note stays", 9, at=0.0)])
    [old] = store.add("ann", [fact("Lisbon", 2e9)])
    store.add("ann", [fact("Porto", 2.1e9)])
    assert store.faded("ann", 4) == (old, *ids[:2])
    assert store.faded("ann", 0) == (old, *ids)
    assert store.faded("ann", 7) == ()
    store.close()


def test_backup_is_whole_private_and_opens(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add("ann", [note(f"note {i}", i) for i in range(50)])
    store.add("ann", [fact("Lisbon", 1e9)])
    copy = tmp_path / "copy.sqlite"
    assert store.back_up(copy) == copy.stat().st_size
    store.add("ann", [note("later", 99)])
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(RequestError, match="there already"):
        store.back_up(copy)
    with pytest.raises(RequestError, match="cannot write"):
        store.back_up(tmp_path / "no folder" / "copy.sqlite")
    restored = MemoryStore.open(copy, DIMENSIONS)
    assert restored.page("ann", 0, 100)[0] == store.page("ann", 0, 51)[0]
    assert "Clara lives in Lisbon" in recalled(restored)
    restored.close()
    store.close()


def test_backup_that_was_killed_has_no_name_and_makes_way_for_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.add("ann", [note(f"note {i}", i) for i in range(50)])
    copy = tmp_path / "copy.sqlite"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from edgeagent.agent.memory import backup, store\n"
        f"opened = store.MemoryStore.open(Path(sys.argv[1]), {DIMENSIONS})\n"
        "backup._sync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "opened.back_up(Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "memory.sqlite"), str(copy)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == -9
    assert not copy.exists()
    assert (tmp_path / "copy.sqlite.partial").exists()
    assert store.back_up(copy) == copy.stat().st_size
    assert not (tmp_path / "copy.sqlite.partial").exists()
    store.close()

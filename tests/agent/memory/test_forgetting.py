"""What was forgotten is in no file any more: not in pages that rows were moved from, not in the word index's keys."""

import random
import subprocess
import sys
from array import array
from pathlib import Path

import apsw
import pytest

from edgeagent.agent.memory import forgetting
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import MemoryStoreError, NotFoundError

DIMENSIONS = 64
LETTERS = "bcdfghjklmnpqrstvwxz"


def content_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


class Notes:
    """Many memories of several users, stored alternately, so that pages of every tree are split."""

    def __init__(self, folder: Path, seed: int, num_memories: int) -> None:
        self._folder = folder
        self._draw = random.Random(seed)
        self.store = MemoryStore.open(folder / "memory.sqlite", DIMENSIONS)
        self.store._db.execute("PRAGMA synchronous = OFF")  # no power is lost here
        self.secrets: list[tuple[str, str, str]] = []
        """User, id and word of each."""
        for i in range(num_memories):
            user, word = f"user{self._draw.randrange(6)}", self._word(i)
            filler = " ".join(f"filler{j}" for j in range(self._draw.choice((3, 10, 30))))
            vector = array("f", [self._draw.choice((-1.0, 1.0)) for _ in range(DIMENSIONS)]).tobytes()
            [id_] = self.store.add(user, [NewMemory("turn", f"{word} {filler}", f"from {word}", 1e9 + i, vector)])
            self.secrets.append((user, id_, word))

    def _word(self, number: int) -> str:
        """Every other word differs from its neighbours in the index by the last letters only."""
        return f"secret{number:06d}z" if number % 2 else "".join(self._draw.choices(LETTERS, k=14))

    def forget(self, count: int) -> list[tuple[str, str, str]]:
        gone = [self.secrets.pop(self._draw.randrange(len(self.secrets))) for _ in range(count)]
        for user, id_, _ in gone:
            self.store.forget(user, id_)
        return gone

    def traces(self, gone: list[tuple[str, str, str]]) -> list[str]:
        content = content_of(self._folder)
        return [text for _, id_, word in gone for text in (id_, word, word[:9]) if self._is_left(content, text)]

    def _is_left(self, content: bytes, text: str) -> bool:
        return text.encode() in content and not any(text in (i, w[: len(text)]) for _, i, w in self.secrets)


def test_forgetting_leaves_no_trace_among_many_memories(tmp_path: Path) -> None:
    notes = Notes(tmp_path, 1, 2000)
    gone = notes.forget(400)
    assert notes.traces(gone) == []
    assert notes.store._db.pragma("integrity_check") == "ok"
    notes.store._db.execute("INSERT INTO memory_words (memory_words, rank) VALUES ('integrity-check', 1)")
    notes.store.close()


def test_traces_are_there_when_nobody_looks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's secure_delete alone is not enough, or the search for traces proves nothing."""
    monkeypatch.setattr(forgetting, "_cleaned", lambda *_: True)
    notes = Notes(tmp_path, 1, 2000)
    assert notes.traces(notes.forget(400)) != []
    notes.store.close()


def test_forgetting_beside_a_reader_says_so_and_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeagent.agent.memory.store.WIPE_ATTEMPTS", 2)
    notes = Notes(tmp_path, 2, 60)
    reader = apsw.Connection(str(tmp_path / "memory.sqlite"))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM memories").get == 60
    user, id_, word = notes.secrets.pop()
    with pytest.raises(MemoryStoreError, match=f"{id_} is forgotten, but traces are left"):
        notes.store.forget(user, id_)
    assert notes.store.ids(user, [word]) == [None]
    assert notes.traces([(user, id_, word)]) != []
    reader.execute("COMMIT")
    notes.store.add(user, [NewMemory("note", "something else", "", 1e9, bytes(4 * DIMENSIONS))])
    assert notes.traces([(user, id_, word)]) == []
    reader.close()
    notes.store.close()


def test_forgetting_that_is_killed_is_made_up_for_at_the_next_opening(tmp_path: Path) -> None:
    notes = Notes(tmp_path, 3, 300)
    notes.store.close()
    user, *_ = victim = notes.secrets.pop(100)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from edgeagent.agent.memory import forgetting, store\n"
        f"opened = store.MemoryStore.open(Path(sys.argv[1]), {DIMENSIONS})\n"
        "forgetting.wipe = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "opened.forget(*sys.argv[2:])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "memory.sqlite"), *victim[:2]]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == -9
    assert notes.traces([victim]) != []
    store = MemoryStore.open(tmp_path / "memory.sqlite", DIMENSIONS)
    assert notes.traces([victim]) == []
    assert len(store.page(user, 0, 1000)[0]) == sum(other[0] == user for other in notes.secrets)
    store.close()


def test_forgetting_several_with_an_unknown_one_forgets_none(tmp_path: Path) -> None:
    notes = Notes(tmp_path, 4, 20)
    (user, id_, _), other = notes.secrets[0], next(s for s in notes.secrets if s[0] != notes.secrets[0][0])
    with pytest.raises(NotFoundError, match=other[1]):
        notes.store.forget(user, id_, other[1])
    assert id_ in {item.id for item in notes.store.page(user, 0, 100)[0]}
    notes.store.close()


def test_many_that_are_forgotten_at_once_leave_no_trace(tmp_path: Path) -> None:
    notes = Notes(tmp_path, 5, 900)
    gone = [secret for secret in notes.secrets if secret[0] == "user1"]
    assert len(gone) > 100  # so many that the file is rewritten instead of searched
    notes.secrets = [secret for secret in notes.secrets if secret[0] != "user1"]
    notes.store.forget("user1", *(id_ for _, id_, _ in gone))
    assert notes.traces(gone) == []
    assert notes.store._db.pragma("integrity_check") == "ok"
    notes.store.close()

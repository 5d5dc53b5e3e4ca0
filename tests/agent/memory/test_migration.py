"""Files of earlier versions open without loss."""

import hashlib
import random
from array import array
from pathlib import Path

import apsw
import pytest

from edgeagent.agent.memory import database, schema
from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.schema import APPLICATION_ID, MIGRATIONS, VERSION
from edgeagent.agent.memory.steps import ranges
from edgeagent.agent.memory.store import MemoryStore
from edgeagent.core.errors import MemoryStoreError
from tests.agent.memory.simulated_disk import MODES, Journal, journaling, put, taken

DIMENSIONS = 16
USERS = ("ann", "bob", "carol")
Former = tuple[str, str, str, str, str, float, bytes]


def former_rows() -> list[Former]:
    draw = random.Random(3)
    rows: list[Former] = []
    for i in range(2500):
        vector = array("f", [draw.gauss(0, 1) for _ in range(DIMENSIONS)]).tobytes()
        kind = ("note", "document", "turn")[i % 3]
        rows.append(
            (f"id{i}", USERS[i % 7 % 3], kind, f"Gina: word{i} said, naïve 日本", f"src{i // 20}", 1e9 + i, vector)
        )
    return rows


def version_1(path: Path, rows: list[Former]) -> None:
    """A file as version 1 wrote it."""
    connection = apsw.Connection(str(path))
    database._load_vectors(connection)
    connection.pragma("journal_mode", "wal")
    with connection:
        connection.execute(MIGRATIONS[0][0].replace("{dimensions}", str(DIMENSIONS)))
        for id_, user, kind, text, source, at, vector in rows:
            digest = hashlib.sha256(text.encode()).digest()
            row = connection.execute(
                "INSERT INTO memories (id, user, kind, text, source, created_at, digest) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING row",
                (id_, user, kind, text, source, at, digest),
            ).get
            connection.execute(
                "INSERT INTO memory_vectors (rowid, user, embedding) VALUES (?,?,?)", (row, user, vector)
            )
        connection.execute("DELETE FROM memories WHERE row = 5")
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", 1)
    connection.close()


def brought_to(version: int, path: Path) -> None:
    """The file as the release with this version of the schema left it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", MIGRATIONS[:version])
        for module in (schema, database):
            patch.setattr(module, "VERSION", version)
        connection = database.open_database(path, DIMENSIONS)
        assert connection.pragma("user_version") == version
        connection.close()


@pytest.mark.parametrize("version", range(1, VERSION))
def test_earlier_version_opens_with_every_memory_word_and_vector(tmp_path: Path, version: int) -> None:
    path = tmp_path / "memory.sqlite"
    rows = former_rows()
    version_1(path, rows)
    brought_to(version, path)
    del rows[4]
    store = MemoryStore.open(path, DIMENSIONS)
    for user in USERS:
        own = [row for row in rows if row[1] == user]
        items = store.page(user, 0, 5000)[0]
        assert [(i.id, i.user, i.kind, i.text, i.source, i.created_at) for i in items] == [row[:6] for row in own]
        assert store.ids(user, [own[7][3]]) == [own[7][0]]
        assert store.speakers(user) == ["Gina"]
        [hit] = store.search(user, Question(f"Who said {own[7][3].split()[1]}?", own[7][6], 1e9), 1)
        assert hit.item.id == own[7][0]
    assert store._db.pragma("user_version") == VERSION
    counted = "SELECT user, num_memories, num_terms FROM namespaces ORDER BY user"
    weighed = (
        "SELECT user, count(*), sum(traces.num_terms) FROM traces JOIN namespaces ON number = namespace GROUP BY user"
    )
    assert store._db.execute(counted).fetchall() == store._db.execute(weighed).fetchall()
    assert store._db.pragma("integrity_check") == "ok"
    store._db.execute("INSERT INTO memory_words (memory_words) VALUES ('integrity-check')")
    tables = {name for (name,) in store._db.execute("SELECT name FROM sqlite_schema")}
    assert not [name for name in tables if name.startswith(("former", "memory_vectors"))]
    store.close()


def test_migration_that_breaks_off_leaves_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.sqlite"
    rows = former_rows()[:50]
    version_1(path, rows)

    def full(connection: apsw.Connection) -> None:
        ranges.move(connection)
        raise apsw.FullError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (MIGRATIONS[0], (MIGRATIONS[1][0], full), *MIGRATIONS[2:]))
        with pytest.raises(MemoryStoreError, match="free some space"):
            MemoryStore.open(path, DIMENSIONS)
    connection = apsw.Connection(str(path))
    assert connection.pragma("user_version") == 1
    assert connection.execute("SELECT count(*) FROM memories").get == 49
    connection.close()
    store = MemoryStore.open(path, DIMENSIONS)
    assert sum(store.stats(user).memories for user in USERS) == 49
    store.close()


@pytest.mark.parametrize("version", range(1, VERSION))
def test_migration_in_which_power_is_lost_loses_nothing(tmp_path: Path, version: int) -> None:
    rows = former_rows()[:80]
    for folder in (made := tmp_path / "made", cut := tmp_path / "cut"):
        folder.mkdir()
    version_1(made / "memory.sqlite", rows)
    brought_to(version, made / "memory.sqlite")
    journal = Journal(taken(made))
    with journaling(journal):
        MemoryStore.open(made / "memory.sqlite", DIMENSIONS).close()
    draw = random.Random(version)
    for moment in sorted(draw.randint(0, len(journal.events)) for _ in range(25)):
        put(journal.image(moment, draw.choice(MODES), draw), cut)
        store = MemoryStore.open(cut / "memory.sqlite", DIMENSIONS)
        assert store._db.pragma("integrity_check") == "ok"
        assert sum(store.stats(user).memories for user in USERS) == 79
        store.close()

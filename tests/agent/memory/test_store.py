"""The store on disk: durability, forgetting, neighbours in other processes, hostile files."""

import hashlib
import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from edgeagent.agent.memory import database
from edgeagent.agent.memory.database import open_database
from edgeagent.agent.memory.ids import ID_ALPHABET
from edgeagent.agent.memory.recall import Question
from edgeagent.agent.memory.schema import APPLICATION_ID, VERSION
from edgeagent.agent.memory.store import MemoryStore, NewMemory
from edgeagent.core.errors import MemoryStoreError

DIMENSIONS = 384


def vector(seed: int) -> bytes:
    draw = random.Random(seed)
    return array("f", [draw.gauss(0, 1) for _ in range(DIMENSIONS)]).tobytes()


def note(text: str, seed: int = 0) -> NewMemory:
    return NewMemory("note", text, "", float(seed), vector(seed))


def signature(vector: bytes) -> bytes:
    """What the file keeps of a vector: the signs of its values, the first in the lowest bit."""
    signs = [value > 0 for value in array("f", vector)]
    return bytes(sum(sign << bit for bit, sign in enumerate(signs[i : i + 8])) for i in range(0, len(signs), 8))


def everything_on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))


def run_python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deeper" / "memory.sqlite"


def test_open_sets_every_pragma_and_keeps_the_file_private(path: Path) -> None:
    connection = open_database(path, DIMENSIONS)
    wanted = {
        "busy_timeout": 5000,
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "wal_autocheckpoint": 4000,
    }
    assert {name: connection.pragma(name) for name in wanted} == wanted
    assert (connection.pragma("application_id"), connection.pragma("user_version")) == (APPLICATION_ID, VERSION)
    connection.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_open_where_sqlite_refuses_a_pragma_is_one_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database.PRAGMAS, "page_size", ("3", 3))  # SQLite ignores what is no power of two
    with pytest.raises(MemoryStoreError, match="refuses page_size = 3"):
        MemoryStore.open(path, DIMENSIONS)


def test_add_gives_short_unique_ids(path: Path) -> None:
    store = MemoryStore.open(path, DIMENSIONS)
    ids = store.add("ann", [note(f"note {i}", i) for i in range(300)])
    assert len(set(ids)) == 300
    assert all(len(id_) == 12 and set(id_) <= set(ID_ALPHABET) for id_ in ids)
    assert store.add("ann", [note("note 7", 7), note("new"), note("new")])[0] == ids[7]
    assert store.stats("ann").memories == 301
    store.close()


def test_add_with_one_bad_vector_stores_none(path: Path) -> None:
    store = MemoryStore.open(path, DIMENSIONS)
    with pytest.raises(MemoryStoreError):
        store.add("ann", [note("good"), NewMemory("note", "bad", "", 0.0, b"\0" * 4)])
    assert store.list("ann", 10) == []
    store.close()


def test_forget_leaves_no_trace_in_any_file(path: Path) -> None:
    store = MemoryStore.open(path, DIMENSIONS)
    store.add("ann", [note(f"ordinary words {i}", i) for i in range(1, 50)])
    text = "zanzibarquux " + "hidden " * 2000
    [id_] = store.add("ann", [note(text, 999)])
    traces = (
        b"zanzibarquux",
        b"zanzibar",
        signature(vector(999)),
        id_.encode(),
        hashlib.sha256(text.encode()).digest(),
    )
    assert all(trace in everything_on_disk(path) for trace in traces)
    store.forget("ann", id_)
    assert [trace for trace in traces if trace in everything_on_disk(path)] == []
    store.close()


def test_forget_many_leaves_no_text_or_vector_behind(path: Path) -> None:
    store = MemoryStore.open(path, DIMENSIONS)
    store._db.execute("PRAGMA synchronous = OFF")  # no power is lost here
    draw = random.Random(4)
    texts = [f"secretword{i:04d}z " + "filler " * draw.choice([0, 1, 5, 40, 900]) for i in range(300)]
    ids = [store.add("ann", [note(text, i)])[0] for i, text in enumerate(texts)]
    gone = draw.sample(range(300), 200)
    for i in gone:
        store.forget("ann", ids[i])
    left = everything_on_disk(path)
    assert [i for i in gone if f"secretword{i:04d}z".encode() in left or signature(vector(i)) in left] == []
    assert all(signature(vector(i)) in left for i in set(range(300)) - set(gone))
    store.close()


def test_added_memory_survives_a_killed_process(path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from edgeagent.agent.memory.store import MemoryStore, NewMemory\n"
        "store = MemoryStore.open(Path(sys.argv[1]), 384)\n"
        "print(*store.add('ann', [NewMemory('note', 'kept', '', 0.0, b'\\x00\\x00\\x80?' * 384)]), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = run_python(code, str(path))
    output, _ = child.communicate()
    assert child.returncode == -9
    store = MemoryStore.open(path, DIMENSIONS)
    assert [item.id for item in store.list("ann", 10)] == [output.strip()]
    store.close()


def test_four_processes_create_and_fill_one_file(path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from edgeagent.agent.memory.store import MemoryStore, NewMemory\n"
        "store = MemoryStore.open(Path(sys.argv[1]), 384)\n"
        "for i in range(25):\n"
        "    text = f'{sys.argv[2]} wrote {i}'\n"
        "    [id_] = store.add('ann', [NewMemory('note', text, '', 0.0, b'\\x00\\x00\\x80?' * 384)])\n"
        "    if i % 5 == 0:\n"
        "        store.forget('ann', id_)\n"
        "store.close()\n"
    )
    children = [run_python(code, str(path), str(number)) for number in range(4)]
    assert [child.wait() for child in children] == [0, 0, 0, 0]
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    store = MemoryStore.open(path, DIMENSIONS)
    assert store.stats("ann").memories == 80
    assert len(store.search("ann", Question("wrote", vector(1), 0.0), 100)) == 80
    store.close()


def test_store_imports_neither_numpy_nor_inference_libraries(path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import edgeagent.agent.memory.memory, edgeagent.execution.embedding\n"
        "from edgeagent.agent.memory.recall import Question\n"
        "from edgeagent.agent.memory.store import MemoryStore, NewMemory\n"
        "store = MemoryStore.open(Path(sys.argv[1]), 384)\n"
        "store.add('ann', [NewMemory('turn', 'Ann: a word', 's', 0.0, bytes(1536))])\n"
        "assert len(store.search('ann', Question('word?', bytes(1536), 0.0), 5)) == 1\n"
        "print(*sorted({'numpy', 'onnxruntime', 'tokenizers', 'llama_cpp'} & set(sys.modules)))\n"
    )
    output, _ = run_python(code, str(path)).communicate()
    assert output.split() == []


def good_database(path: Path) -> bytes:
    store = MemoryStore.open(path, DIMENSIONS)
    store.add("ann", [note(f"note {i} " + "word " * 200, i) for i in range(100)])
    store.close()
    return path.read_bytes()


def truncated(path: Path) -> None:
    path.write_bytes(good_database(path)[:-5000])


def overwritten(path: Path) -> None:
    content = good_database(path)
    page = 4096
    path.write_bytes(content[:page] + b"\xff" * (4 * page) + content[5 * page :])


def garbage(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(random.Random(1).randbytes(20_000))


def foreign(path: Path) -> None:
    path.parent.mkdir(parents=True)
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()


def newer(path: Path) -> None:
    good_database(path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", VERSION + 1)
    connection.close()


def other_dimensions(path: Path) -> None:
    MemoryStore.open(path, 2 * DIMENSIONS).close()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncated, "restore a copy"),
        (overwritten, "restore a copy"),
        (garbage, "move the file away"),
        (foreign, "another program"),
        (newer, "newer edgeagent"),
        (other_dimensions, "vectors of 768 values"),
    ],
)
def test_open_unusable_file_is_one_clear_error_and_leaves_it_alone(
    path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(path)
    before = path.read_bytes()
    with pytest.raises(MemoryStoreError, match=complaint) as caught:
        MemoryStore.open(path, DIMENSIONS)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_open_folder_or_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    for place in (tmp_path, Path("/proc/memory.sqlite"), Path("/dev/null/memory.sqlite")):
        with pytest.raises(MemoryStoreError, match=str(place)):
            MemoryStore.open(place, DIMENSIONS)


def test_add_while_another_process_holds_the_lock_is_one_clear_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore.open(path, DIMENSIONS)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    store._db.set_busy_timeout(10)
    with pytest.raises(MemoryStoreError, match="another process is writing"):
        store.add("ann", [note("text")])
    other.execute("ROLLBACK")
    other.close()
    assert len(store.add("ann", [note("text")])) == 1
    store.close()
